-- A[3]: after which place; A[4]: how many at most.  The time, whether time has more to decide first, whether this is all
-- there is, and id, life, payload, errors of leased messages, in order of publishing.
local q = queue(1)
if not q then return false end
local BYTES = 4194304
local behind = observe(q, 100) >= 100
local ids, leased = call('ZRANGEBYSCORE', q.base .. 'leased', '-inf', '(+inf'), {}
-- In the order in which they end, which is not that of publishing: but there are no more than workers have slots.
prefetch(q, ids)
for _, id in ipairs(ids) do
  local m = stored(q, id)
  if m.life and m.life[STATE] == LEASED and m.life[SEQ] > A[3] then leased[#leased + 1] = m end
end
flush() -- what could not be read
table.sort(leased, function(a, b) return a.life[SEQ] < b.life[SEQ] end)
local found, lives, bodies, errors, size = {}, {}, {}, {}, 0
for i, m in ipairs(leased) do
  if size >= BYTES or i > A[4] then break end
  found[i], lives[i] = m.id, encode(m.life)
  bodies[i], errors[i] = call('HGET', q.base .. 'body', m.id), call('HGET', q.base .. 'errors', m.id)
  size = size + #(bodies[i] or '') + #(errors[i] or '')
end
return {format('%.17g', now), behind and 1 or 0, #found == #leased and 1 or 0, found, lives, bodies, errors}
