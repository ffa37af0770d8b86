-- A[3]: names, in the order of KEYS; A[4]: the key of the list of queues, or nil if it is elsewhere; A[5]: in a cluster
-- the queue's number.
for i, name in ipairs(A[3]) do
  call('HSETNX', KEYS[i + 1], 'declared', name)
  if A[5] then call('HSETNX', KEYS[i + 1], 'number', A[5]) end
  if A[4] then call('SADD', A[4], name) end
end
return #A[3]
