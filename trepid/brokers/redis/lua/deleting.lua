-- A[3]: the name; A[4]: the key of the list of queues, or nil if it is elsewhere.  How many messages are leased, which
-- forbids it; -1 if something of the past is left to be carried out first.
local q = queue(1)
if A[4] and not q then call('SREM', A[4], A[3]) end
if not q then return 0 end
local base = q.base
local function late(key) return call('ZCOUNT', base .. key, '-inf', now) > 0 end
if late('leased') then
  observe(q, 100)
  if late('leased') then return -1 end
end
local leased = call('ZCOUNT', base .. 'leased', '-inf', '(+inf')
if leased > 0 then return leased end
-- The messages go at once, however many they are; that they were published is remembered by the heap of their lives.
if call('EXISTS', base .. 'life') == 1 then
  seq = seq + stride
  local grave = base .. 'grave:' .. format('%.0f', seq)
  call('RENAME', base .. 'life', grave)
  call('EXPIRE', grave, 660)
  call('ZREMRANGEBYSCORE', base .. 'graves', '-inf', now - 660)
  call('ZADD', base .. 'graves', now, grave)
  call('EXPIRE', base .. 'graves', 660)
end
for _, lane in ipairs(call('ZRANGE', base .. 'lanes', 0, -1)) do
  call('UNLINK', base .. 'lane:' .. lane, base .. 'heads:' .. lane)
end
for _, lane in ipairs(call('HKEYS', base .. 'heads')) do call('UNLINK', base .. 'lane:' .. lane) end
for _, gate in ipairs(call('ZRANGE', base .. 'rated', 0, -1)) do call('UNLINK', base .. 'starts:' .. gate) end
call('UNLINK', base .. 'body', base .. 'errors', base .. 'results', base .. 'uniques', base .. 'waiting', base .. 'ttl',
  base .. 'leased', base .. 'asked', base .. 'done', base .. 'dead', base .. 'cancelled', base .. 'forget', base .. 'lanes',
  base .. 'watched', base .. 'gates', base .. 'gated', base .. 'heads', base .. 'running', base .. 'shut', base .. 'rated',
  base .. 'limits', base .. 'marks', base .. 'kept', base .. 'kept:ends', q.meta)
call('HSET', KEYS[1], 'clock', now, 'seq', seq)
if A[4] then call('SREM', A[4], A[3]) end
redis.pcall('PUBLISH', base .. 'ended', '*')
return 0
