-- A[3]: batches, each of them stored as a whole or not at all.

-- Whether nothing stands against any item: the ordinary case, found out by few commands for all of them.
local function all_new(batches)
  local names = {}
  for _, items in ipairs(batches) do
    for _, item in ipairs(items) do
      local q, id = queue(item[1]), item[2]
      if not q or item[10] then return false end
      local theirs = names[q]
      if not theirs then
        if call('EXISTS', q.base .. 'graves') == 1 then return false end
        theirs = {ids = {}, seen = {}}
        names[q] = theirs
      end
      if theirs.seen[id] or departed(q, item[3], item[4]) then return false end
      theirs.seen[id] = true
      theirs.ids[#theirs.ids + 1] = id
    end
  end
  for q, theirs in pairs(names) do
    for first = 1, #theirs.ids, 4000 do
      local last = min(first + 3999, #theirs.ids)
      local found = call('HMGET', q.base .. 'life', unpack(theirs.ids, first, last))
      for i = 1, last - first + 1 do
        if found[i] then return false end
      end
    end
  end
  return names
end

local function insert_all(batches, names)
  for q in pairs(names) do
    q.lanes, q.places, q.lives, q.bodies, q.ttl = {}, {}, {}, {}, {}
  end
  for _, items in ipairs(batches) do
    for _, item in ipairs(items) do
      local q, id, due = queue(item[1]), item[2], item[8] or now + (item[7] or 0)
      if due < now then due = now end
      seq = seq + stride
      local expires = item[9] and due + item[9] or false
      local lane = q.lanes[item[6]]
      if not lane then lane = {} q.lanes[item[6]] = lane end
      local places, lives, bodies = q.places, q.lives, q.bodies
      local n = #places
      lane[#lane + 1] = due
      lane[#lane + 1] = format('%016.0f', seq) .. id
      places[n + 1], places[n + 2] = seq, id
      lives[n + 1], lives[n + 2] = id, encode({WAITING, seq, due, 0, item[6], now, item[3], item[4],
        item[13] or false, item[12] or false, expires, false})
      bodies[n + 1], bodies[n + 2] = id, ARGV[item[5]]
      if expires then
        q.ttl[#q.ttl + 1] = expires -- which is not before it is due
        q.ttl[#q.ttl + 1] = id
      end
    end
  end
  for q in pairs(names) do
    local base = q.base
    -- A server whose memory is full refuses the first of these, and then nothing is written.
    all('HSET', base .. 'body', q.bodies)
    all('HSET', base .. 'life', q.lives)
    for priority, lane in pairs(q.lanes) do
      all('ZADD', base .. 'lane:' .. priority, lane)
      call('ZADD', base .. 'lanes', -priority, priority)
    end
    all('ZADD', base .. 'waiting', q.places)
    all('ZADD', base .. 'ttl', q.ttl)
    ring(q, true, {})
  end
  keep_time()
end

local replies, names = {}, all_new(A[3])
if names then
  insert_all(A[3], names)
  for i, items in ipairs(A[3]) do replies[i] = {string.rep('A', #items), false} end
  return encode(replies)
end
for i, items in ipairs(A[3]) do
  local outcomes, ids = publish(items)
  local others = false
  for k = 1, #outcomes do others = others or ids[k] end
  replies[i] = {table.concat(outcomes), others and ids or false}
end
flush()
return encode(replies)
