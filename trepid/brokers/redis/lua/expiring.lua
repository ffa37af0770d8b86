-- A[3]: the owner; A[4]: how many leases at most.  How many of its leases have been ended.
local count = 0
for i = 1, QUEUES do
  local q = queue(i)
  if q then
    local ids = call('ZRANGEBYSCORE', q.base .. 'leased', format('(%.17g', now), '(+inf')
    prefetch(q, ids)
    for _, id in ipairs(ids) do
      local m = stored(q, id)
      local l = m.life
      if l and l[STATE] == LEASED and l[OWNER] == A[3] and count < A[4] then
        l[UNTIL] = now
        elapse(l)
        moved(q, m)
        count = count + 1
      end
    end
  end
end
flush()
return count
