-- A[3]: how many of each kind at most; how many there were, in all queues, or -1 if one was never declared.
local count = 0
for i = 1, QUEUES do
  local q = queue(i)
  if not q then return -1 end
  count = count + observe(q, A[3])
end
return count
