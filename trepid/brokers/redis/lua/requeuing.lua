-- A[3]: ids, or nil for all dead messages after the place A[4]; A[5]: how many at most.  How many came back, and after
-- which place to go on.
local q, came, last = queue(1), 0, false
if not q then return false end
observe(q, 100)
local ids = A[3]
if not ids then
  ids = call('ZRANGEBYSCORE', q.base .. 'dead', format('(%.17g', A[4]), '+inf', 'LIMIT', 0, 500)
end
prefetch(q, ids)
local seen, full = {}, false
for _, id in ipairs(ids) do
  if came >= A[5] then
    full = true
    break
  end
  local m = stored(q, id)
  local l = not seen[id] and aged(q, m)
  seen[id] = true
  if l then last = l[SEQ] end
  if l and l[STATE] == DEAD then
    local other = l[UNIQUE] and holder(q, l[UNIQUE])
    local theirs = other and aged(q, stored(q, other))
    if not theirs or theirs[STATE] >= DONE then
      seq = seq + stride
      l[SEQ], l[DUE], l[STATE], l[EXPIRES], l[CANCEL], l[STRAY] = seq, now, WAITING, false, false, false
      l[SPENT_FAILURES], l[SPENT_CRASHES], l[REQUEUES] = l[FAILURES], l[CRASHES], l[REQUEUES] + 1
      l[ENDED], l[REASON], l[FORGET] = false, false, false
      if l[UNIQUE] then hold(q, l[UNIQUE], id) end
      touch(q, m)
      came = came + 1
    end
  end
end
flush()
if A[3] or full or #ids < 500 then last = false end
return encode({came, last})
