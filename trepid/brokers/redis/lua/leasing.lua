-- A[3] to A[7]: limit, lease_for, owner, which queue is first, whether the caller will wait.
local limit, lease_for, owner, turn, waits = A[3], A[4], A[5], A[6], A[7]
local BYTES, AT_ONCE, DEATHS = 4194304, 250, 1000
limit = min(limit, 2500) -- what is returned stands on Lua's stack
-- What is granted, as id, life and payload by turns; how much of each queue; and where it was, and is.
local ends, granted, runs, count, size, deaths = now + lease_for, {}, {}, 0, 0, 0
local open = {}
for i = 1, QUEUES do
  local q = queue(i)
  if q then
    observe(q, 100)
    if not q.paused then
      q.index, q.ids, q.lives, q.leases, q.dated, q.offsets = i, {}, {}, {'+inf', GUARD}, {}, {}
      q.lanes = call('ZRANGE', q.base .. 'lanes', 0, -1)
      open[#open + 1] = q
    end
  end
end
local turned = #open > 1
local asked = open
if turned then
  local order, start = {}, turn % #open
  for i = 1, #open do order[i] = open[(i - 1 + start) % #open + 1] end
  open = order
end

local function take(q, most)
  local took, base = 0, q.base
  local ids, lives, leases, dated = q.ids, q.lives, q.leases, q.dated
  for _, lane in ipairs(q.lanes) do
    while took < most and size < BYTES and deaths < DEATHS do
      local wanted = min(most - took, AT_ONCE)
      -- Nothing is written before the end, so what is taken already is still there, in front.
      local found = call('ZRANGEBYSCORE', base .. 'lane:' .. lane, '-inf', now, 'LIMIT', q.offsets[lane] or 0, wanted)
      if #found == 0 then break end
      local theirs = {}
      for i, entry in ipairs(found) do theirs[i] = sub(entry, 17) end
      local blobs = call('HMGET', base .. 'life', unpack(theirs))
      local payloads = call('HMGET', base .. 'body', unpack(theirs))
      for i, id in ipairs(theirs) do
        if size >= BYTES then break end
        q.offsets[lane] = (q.offsets[lane] or 0) + 1
        local l = blobs[i] and readable(blobs[i])
        if not l or (l[EXPIRES] and now >= l[EXPIRES]) then
          -- It died waiting, or cannot be read, or somebody's hand has taken it away.
          if not aged(q, stored(q, id)) then q.dated[#q.dated + 1], q.ids[#q.ids + 1] = id, id end
          deaths = deaths + 1
        else
          l[STATE], l[DELIVERIES], l[OWNER], l[UNTIL] = LEASED, l[DELIVERIES] + 1, owner, ends
          local blob, payload = encode(l), payloads[i] or ''
          local n = #lives
          ids[#ids + 1] = id
          lives[n + 1], lives[n + 2] = id, blob
          leases[n + 3], leases[n + 4] = ends, id
          if l[EXPIRES] then dated[#dated + 1] = id end
          granted[3 * count + 1], granted[3 * count + 2], granted[3 * count + 3] = id, blob, payload
          count, took, size = count + 1, took + 1, size + #payload
        end
      end
      if #found < wanted then break end
    end
  end
  runs[#runs + 1] = q.index
  runs[#runs + 1] = took
  return took == most
end

while #open > 0 and count < limit and size < BYTES and deaths < DEATHS do
  local share, more = math.ceil((limit - count) / #open), {}
  for _, q in ipairs(open) do
    local most = min(share, limit - count)
    if most > 0 and take(q, most) then more[#more + 1] = q end
  end
  open = more
end
for _, q in ipairs(asked) do
  -- Removals come first: then a server whose memory is full lets the rest pass, and can be drained.  What was looked at
  -- is in front of its lane, and has been taken or is dead.
  for lane, looked in pairs(q.offsets) do call('ZREMRANGEBYRANK', q.base .. 'lane:' .. lane, 0, looked - 1) end
  all('ZREM', q.base .. 'waiting', q.ids)
  all('ZREM', q.base .. 'ttl', q.dated)
  if #q.lives > 0 then
    all('HSET', q.base .. 'life', q.lives)
    all('ZADD', q.base .. 'leased', q.leases)
  end
end
if count > 0 then keep_time() end
flush()
-- In how many seconds to look again; at once, if there was more of the past than may be carried out in one go.
local wait = deaths >= DEATHS and 0
if count == 0 then
  for _, q in ipairs(asked) do
    local function look(key, from)
      local first = call('ZRANGEBYSCORE', q.base .. key, from, '(+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
      if first then wait = min(wait or first - now, first - now) end
    end
    look('leased', '-inf')
    for _, lane in ipairs(q.lanes) do look('lane:' .. lane, format('(%.17g', now)) end
  end
  if waits then
    for i = 1, QUEUES do
      local q = queue(i)
      if q and not q.armed then call('HSET', q.meta, 'armed', 1) end
    end
  end
end
return {encode({now, turned, wait, runs}), unpack(granted)}
