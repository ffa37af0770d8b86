-- A[3] to A[7]: limit, lease_for, owner, which queue is first, whether the caller will wait.
local limit, lease_for, owner, turn, waits = A[3], A[4], A[5], A[6], A[7]
local AT_ONCE = 250
limit = min(limit, 2500) -- what is returned stands on Lua's stack
-- What is granted, as id, life and payload by turns; how much of each queue; and where it was, and is.
local ends, granted, runs, count = now + lease_for, {}, {}, 0
local open_queues = {}
for i = 1, QUEUES do
  local q = queue(i)
  if q then
    observe(q, 100)
    if not q.paused then
      q.index, q.ids, q.lives, q.leases, q.dated, q.offsets = i, {}, {}, {'+inf', GUARD}, {}, {}
      q.lanes, q.met, q.weight = call('ZRANGE', q.base .. 'lanes', 0, -1), {}, 1
      if q.limited then
        q.weight = (limit_of(q, '') or {})[5] or 1
        passing().met(q, '')
      end
      if q.gated then
        for _, gate in ipairs(call('ZRANGEBYSCORE', q.base .. 'shut', '-inf', now, 'LIMIT', 0, ENOUGH)) do gates().open(q, gate) end
        q.gated, q.streams = call('EXISTS', q.base .. 'heads') == 1, {}
      end
      open_queues[#open_queues + 1] = q
    end
  end
end
local asked, turned = open_queues, #open_queues > 1
if turned then
  -- Over as many turns as the weights sum up to, each queue is first as often as its weight says.
  local weights, order, first = 0, {}, 1
  for _, q in ipairs(open_queues) do weights = weights + q.weight end
  local at = turn % weights
  while at >= open_queues[first].weight do at, first = at - open_queues[first].weight, first + 1 end
  for i = 1, #open_queues do order[i] = open_queues[(i + first - 2) % #open_queues + 1] end
  open_queues = order
end

-- Grant the leases of messages; how many, how many of them were looked at, and the last one's life.
local function grant(q, theirs, blobs, payloads)
  local ids, lives, leases, dated, ours = q.ids, q.lives, q.leases, q.dated, q.met['']
  local took, looked, last = 0, 0, nil
  for i, id in ipairs(theirs) do
    if size >= BYTES then break end
    looked = i
    local l = blobs[i] and readable(blobs[i])
    if not l or (l[EXPIRES] and now >= l[EXPIRES]) then
      -- It died waiting, or cannot be read, or somebody's hand has taken it away.
      if not aged(q, stored(q, id)) then q.dated[#q.dated + 1], q.ids[#q.ids + 1] = id, id end
      spent = spent + 1
    else
      l[STATE], l[DELIVERIES], l[OWNER], l[UNTIL] = LEASED, l[DELIVERIES] + 1, owner, ends
      local blob, payload = encode(l), payloads[i] or ''
      local n = #lives
      ids[#ids + 1] = id
      lives[n + 1], lives[n + 2] = id, blob
      leases[n + 3], leases[n + 4] = ends, id
      if l[EXPIRES] then dated[#dated + 1] = id end
      granted[3 * count + 1], granted[3 * count + 2], granted[3 * count + 3] = id, blob, payload
      count, took, size, last = count + 1, took + 1, size + #payload, l
      if ours then passing().enter(ours, l) end
    end
  end
  return took, looked, last
end

-- The messages of a queue without gates, many at once.
local function take(q, most)
  local took, base = 0, q.base
  for _, lane in ipairs(q.lanes) do
    while took < most and size < BYTES and spent < ENOUGH do
      local wanted = min(most - took, AT_ONCE)
      -- Nothing is written before the end, so what is taken already is still there, in front.
      local found = call('ZRANGEBYSCORE', base .. 'lane:' .. lane, '-inf', now, 'LIMIT', q.offsets[lane] or 0, wanted)
      if #found == 0 then break end
      local theirs = {}
      for i, entry in ipairs(found) do theirs[i] = sub(entry, 17) end
      local more, looked = grant(q, theirs, call('HMGET', base .. 'life', unpack(theirs)),
        call('HMGET', base .. 'body', unpack(theirs)))
      took, q.offsets[lane] = took + more, (q.offsets[lane] or 0) + looked
      if #found < wanted then break end
    end
  end
  return took
end

while #open_queues > 0 and count < limit and size < BYTES and spent < ENOUGH do
  local room, weights, more = limit - count, 0, {}
  for _, q in ipairs(open_queues) do weights = weights + q.weight end
  for _, q in ipairs(open_queues) do
    local share = min(math.ceil(room * q.weight / weights), limit - count)
    if share > 0 then
      local most = q.met[''] and min(share, q.met[''].room) or share
      local took = q.gated and passing().pass(q, most, grant) or take(q, most)
      runs[#runs + 1] = q.index
      runs[#runs + 1] = took
      if took == share then more[#more + 1] = q end
    end
  end
  open_queues = more
end
for _, q in ipairs(asked) do
  -- Removals come first: then a server whose memory is full lets the rest pass, and can be drained.  What was looked at
  -- is in front of its lane, and has been taken or is dead.
  for lane, looked in pairs(q.offsets) do call('ZREMRANGEBYRANK', q.base .. 'lane:' .. lane, 0, looked - 1) end
  all('ZREM', q.base .. 'waiting', q.ids)
  all('ZREM', q.base .. 'ttl', q.dated)
  if q.gated then all('ZREM', q.base .. 'gated', q.ids) end
  if #q.lives > 0 then
    all('HSET', q.base .. 'life', q.lives)
    all('ZADD', q.base .. 'leased', q.leases)
  end
  if next(q.met) then passing().write(q) end
end
if count > 0 then keep_time() end
flush()
-- In how many seconds to look again; at once, if there was more to do than may be done in one go.
local wait = spent >= ENOUGH and 0
if count == 0 then
  for _, q in ipairs(asked) do
    local function look(key, from)
      local first = call('ZRANGEBYSCORE', q.base .. key, from, '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
      if first then wait = min(wait or first - now, first - now) end
    end
    local later = format('(%.17g', now)
    look('leased', '-inf')
    for _, lane in ipairs(q.lanes) do
      look('lane:' .. lane, later)
      if q.gated then look('heads:' .. lane, later) end
    end
    if q.gated then look('shut', '-inf') end
    local opening = q.opens and tonumber(q.opens) or huge
    if opening < huge then wait = min(wait or opening - now, opening - now) end
  end
  if waits then
    for i = 1, QUEUES do
      local q = queue(i)
      if q and not q.armed then call('HSET', q.meta, 'armed', 1) end
    end
  end
end
local first = queue(1)
return {encode({now, turned, wait, runs, first and first.weight or 1}), unpack(granted)}
