-- A[3]: firings, as queue, mark, instant or nil, the item to publish or nil, whether it insists.
local marks, written, outcomes, ids = {}, {}, {}, {}
local most = {}
for _, firing in ipairs(A[3]) do most[firing[1]] = (most[firing[1]] or 0) + 1 end
for i, more in pairs(most) do
  if queue(i) then measure(queue(i), more) end
end

local function last(q, mark)
  marks[q] = marks[q] or {}
  if marks[q][mark] == nil then
    marks[q][mark] = tonumber(call('HGET', q.base .. 'marks', mark) or nil) or false
  end
  return marks[q][mark]
end

local function fire(q, mark, instant, item, insists)
  if not instant then
    marks[q] = marks[q] or {}
    marks[q][mark], written[q] = false, true
    return 'A', false
  end
  local before = last(q, mark)
  if before and before >= instant then return 'D', false end
  local outcome, id = 'A', false
  if item then
    local published, others = publish({item})
    outcome, id = published[1], others[1]
  end
  if outcome == 'A' or outcome == 'D' or (outcome == 'E' and not insists) then
    marks[q][mark], written[q] = instant, true
  end
  return outcome, id
end

for i, firing in ipairs(A[3]) do
  local q = queue(firing[1])
  if q then
    outcomes[i], ids[i] = fire(q, firing[2], firing[3], firing[4], firing[5])
  else
    outcomes[i], ids[i] = 'Q', false
  end
end
flush()
for q in pairs(written) do
  local set, gone = {}, {}
  for mark, instant in pairs(marks[q]) do
    if instant then
      set[#set + 1] = mark
      set[#set + 1] = format('%.17g', instant)
    else
      gone[#gone + 1] = mark
    end
  end
  all('HDEL', q.base .. 'marks', gone)
  all('HSET', q.base .. 'marks', set)
end
return encode({table.concat(outcomes), ids})
