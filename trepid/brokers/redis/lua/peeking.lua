-- A[3]: key; A[4]: after which place; A[5]: how many to look at.  The time, whether time has more to decide first, and
-- what was found: id, life, payload, errors of each.
local q = queue(1)
if not q then return false end
local behind = observe(q, 100) >= 100
local ids = call('ZRANGEBYSCORE', q.base .. A[3], format('(%.17g', A[4]), '+inf', 'LIMIT', 0, A[5])
local lives, bodies, errors = {}, {}, {}
if #ids > 0 then
  lives = call('HMGET', q.base .. 'life', unpack(ids))
  bodies = call('HMGET', q.base .. 'body', unpack(ids))
  errors = call('HMGET', q.base .. 'errors', unpack(ids))
end
return {format('%.17g', now), behind and 1 or 0, ids, lives, bodies, errors}
