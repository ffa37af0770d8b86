-- A[3]: lease_for; A[4]: refs, as queue, id, place, delivery.
local ends, replies = now + A[3], {}
for i, ref in ipairs(A[4]) do
  local q = queue(ref[1])
  local m, reply = false, 'U'
  if q then m, reply = held(q, ref[2], ref[3], ref[4]) end
  if reply == 'A' then
    replies[i] = {reply, m.life[CANCEL]}
    if ends > m.life[UNTIL] then
      m.life[UNTIL] = ends
      touch(q, m)
    end
  else
    if m then aged(q, m) end
    replies[i] = {reply, false}
  end
end
flush()
return encode(replies)
