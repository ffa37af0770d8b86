-- A[3]: batches, each of them stored as a whole or not at all.
local replies = {}
for i, items in ipairs(A[3]) do
  local outcomes, ids = publish(items)
  local others = false
  for k = 1, #outcomes do others = others or ids[k] end
  replies[i] = {table.concat(outcomes), others and ids or false}
end
flush()
return encode(replies)
