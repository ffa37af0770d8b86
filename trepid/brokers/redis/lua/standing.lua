-- Whether who shows a token holds the lease, in time; else why not, after letting time decide, but for the end of that
-- very lease: then the answer is that it has expired.
local function standing(l, place, delivery)
  if l[SEQ] ~= place then return place > l[SEQ] and 'U' or 'S' end
  if l[STATE] == LEASED and l[DELIVERIES] == delivery then return now < l[UNTIL] and 'A' or 'X' end
  return l[STATE] >= DONE and 'E' or 'S'
end

local function held(q, id, place, delivery)
  local m = stored(q, id)
  local l = m.life
  if not l or (l[FORGET] and l[FORGET] <= now) then return false, 'U' end
  if not (l[STATE] == LEASED and l[SEQ] == place and l[DELIVERIES] == delivery) then
    l = aged(q, m)
    if not l then return false, 'U' end
  end
  return m, standing(l, place, delivery)
end
