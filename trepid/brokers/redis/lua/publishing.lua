-- A[3]: batches, each of them stored as a whole or not at all.

-- Measure the queues that take only so many messages; whether all have room for all that may come.
local function roomy(batches)
  local most = {}
  for _, items in ipairs(batches) do
    for _, item in ipairs(items) do most[item[1]] = (most[item[1]] or 0) + 1 end
  end
  local enough = true
  for i, more in pairs(most) do
    local q = queue(i)
    if q then
      measure(q, more)
      enough = enough and not (q.space and q.space < more)
    end
  end
  return enough
end

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
    q.behind, q.gates, q.dues = {}, {}, {}
  end
  for _, items in ipairs(batches) do
    for _, item in ipairs(items) do
      local q, id, due = queue(item[1]), item[2], item[8] or now + (item[7] or 0)
      if due < now then due = now end
      seq = seq + stride
      local expires = item[9] and due + item[9] or false
      local priority, gate = item[6], item[15]
      local lane = q.lanes[lane_of(priority, gate)]
      if not lane then
        lane = {}
        q.lanes[lane_of(priority, gate)] = lane
        if gate then q.behind[#q.behind + 1] = {gate = gate, priority = priority} end
      end
      local places, lives, bodies = q.places, q.lives, q.bodies
      local n = #places
      lane[#lane + 1] = due
      lane[#lane + 1] = format('%016.0f', seq) .. id
      places[n + 1], places[n + 2] = seq, id
      local life = {WAITING, seq, due, 0, priority, now, item[3], item[4], item[13] or false, item[12] or false, expires,
        false}
      if gate then
        filled(life)[GATE] = gate
        local k = #q.gates
        q.gates[k + 1], q.gates[k + 2], q.dues[k + 1], q.dues[k + 2] = id, gate, due, id
      end
      lives[n + 1], lives[n + 2] = id, encode(life)
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
    for name, lane in pairs(q.lanes) do
      all('ZADD', base .. 'lane:' .. name, lane)
      local priority = string.match(name, '^%-?%d+')
      call('ZADD', base .. 'lanes', -priority, priority)
    end
    if #q.behind > 0 then
      all('HSET', base .. 'gates', q.gates)
      all('ZADD', base .. 'gated', q.dues)
      if not q.gated then call('HSET', q.meta, 'gated', 1) end
      gates().reindex(q, q.behind)
    end
    all('ZADD', base .. 'waiting', q.places)
    all('ZADD', base .. 'ttl', q.ttl)
    ring(q, true, {})
  end
  keep_time()
end

local replies, names = {}, roomy(A[3]) and all_new(A[3])
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
