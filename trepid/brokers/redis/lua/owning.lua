-- A[3]: the owner; A[4]: only those who were asked to stop.  For each lease: queue, id, place, delivery, the reason.
local found = {}
for i = 1, QUEUES do
  local q = queue(i)
  local ids = {}
  if q and A[4] then
    ids = call('SMEMBERS', q.base .. 'asked')
  elseif q then
    ids = call('ZRANGEBYSCORE', q.base .. 'leased', format('(%.17g', now), '(+inf')
  end
  if #ids > 0 then
    prefetch(q, ids)
    for _, id in ipairs(ids) do
      local l = stored(q, id).life
      if l and l[STATE] == LEASED and l[OWNER] == A[3] and l[UNTIL] > now then
        found[#found + 1] = {i, id, l[SEQ], l[DELIVERIES], l[CANCEL]}
      end
    end
  end
end
flush() -- what could not be read
return encode(found)
