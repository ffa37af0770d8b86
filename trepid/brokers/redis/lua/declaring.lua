-- A[3]: names, in the order of KEYS; A[4]: the key of the list of queues, or nil if it is elsewhere; A[5]: in a cluster
-- the queue's number.
for i, name in ipairs(A[3]) do
  -- What is there is not written again: a server that is full would refuse that, and with it whoever comes to drain it.
  if not queue(i) then
    call('HSET', KEYS[i + 1], 'declared', name)
    if A[5] then call('HSETNX', KEYS[i + 1], 'number', A[5]) end
  end
  if A[4] and call('SISMEMBER', A[4], name) == 0 then call('SADD', A[4], name) end
end
return #A[3]
