-- A[3]: whether it is to be paused.
local q = queue(1)
if not q then return false end
if A[3] then
  call('HSET', q.meta, 'paused', 1)
else
  call('HDEL', q.meta, 'paused', 'armed')
  redis.pcall('PUBLISH', q.base .. 'work', '')
end
return 1
