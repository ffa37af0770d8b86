-- The figures of a queue, after letting time decide; -1 if something of the past is left to be carried out first.
local q = queue(1)
if not q then return false end
if observe(q, 100) >= 100 then return -1 end
local ready, oldest = 0, false
for _, lane in ipairs(call('ZRANGE', q.base .. 'lanes', 0, -1)) do
  ready = ready + call('ZCOUNT', q.base .. 'lane:' .. lane, '-inf', now)
  local first = call('ZRANGEBYSCORE', q.base .. 'lane:' .. lane, '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if first then oldest = min(oldest or first + 0, first) end
end
if q.gated then
  ready = ready + call('ZCOUNT', q.base .. 'gated', '-inf', now)
  local first = call('ZRANGEBYSCORE', q.base .. 'gated', '-inf', now, 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if first then oldest = min(oldest or first + 0, first) end
end
local function size(key) return call('ZCARD', q.base .. key) end
return encode({ready, size('waiting') - ready, call('ZCOUNT', q.base .. 'leased', '-inf', '(+inf'), size('done'), size('dead'), size('cancelled'),
  q.paused and true or false, oldest and max(0, now - oldest)})
