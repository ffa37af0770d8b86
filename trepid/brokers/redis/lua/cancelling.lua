-- A[3]: ids; A[4]: the reason; A[5]: where to tell.
local q, replies, asked = queue(1), {}, false
for i, id in ipairs(A[3]) do
  local m = q and stored(q, id)
  local l = m and aged(q, m)
  if not l then
    replies[i] = 'U'
  elseif l[STATE] >= DONE then
    replies[i] = 'F'
  elseif l[STATE] == LEASED then
    if not l[CANCEL] then
      l[CANCEL] = A[4]
      touch(q, m)
    end
    replies[i], asked = 'R', true
  else
    cancelled(l, now, A[4])
    moved(q, m)
    replies[i] = 'W'
  end
end
flush()
if asked then redis.pcall('PUBLISH', A[5], '') end
return table.concat(replies)
