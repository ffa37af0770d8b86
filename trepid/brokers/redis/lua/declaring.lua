-- A[3]: names, in the order of KEYS; A[4]: the key of the list of queues, or nil if it is elsewhere.
for i, name in ipairs(A[3]) do
  call('HSETNX', KEYS[i + 1], 'declared', name)
  if A[4] then call('SADD', A[4], name) end
end
return #A[3]
