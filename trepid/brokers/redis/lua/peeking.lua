-- A[3]: key; A[4]: after which place; A[5]: how many to look at.  The time, whether time has more to decide first,
-- whether this is all there is, and what was found: id, life, payload, errors of each.
local q = queue(1)
if not q then return false end
local BYTES = 4194304
local behind = observe(q, 100) >= 100
local ids = call('ZRANGEBYSCORE', q.base .. A[3], format('(%.17g', A[4]), '(+inf', 'LIMIT', 0, A[5])
local base, found, lives, bodies, errors, size = q.base, {}, {}, {}, {}, 0
for i, id in ipairs(ids) do
  if size >= BYTES then break end
  found[i], lives[i] = id, record(q, id)
  if not lives[i] then let_go(q, A[3], id) end -- or it would be found again, and nothing behind it
  bodies[i], errors[i] = call('HGET', base .. 'body', id), call('HGET', base .. 'errors', id)
  size = size + #(bodies[i] or '') + #(errors[i] or '')
end
return {format('%.17g', now), behind and 1 or 0, #found == #ids and #ids < A[5] and 1 or 0, found, lives, bodies, errors}
