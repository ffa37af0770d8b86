-- Limits and gates, as trepid/rules/gates.py says.
--
-- Who has to pass a gate waits in lanes of its own, `lane:5:GATE`, so a gate that lets nobody through is in nobody's way.
-- The first of each such lane stands in the index of its priority, `heads:5`, in the order of the lanes themselves.  A
-- gate that is found full is taken out of the index and is `shut`: until one of those inside leaves, which its script
-- sees, or until the time at which a rate opens it.  So a lease meets a gate only to take from it or to shut it, however
-- many others there are.
local huge = math.huge

local function lane_of(priority, gate)
  return gate and priority .. ':' .. gate or priority
end

local function family_of(gate)
  return string.match(gate, '^[^:]*')
end

-- What the gates of one family let through, or the queue itself ('') does: concurrency, count, per, max_size, weight.
local function limit_of(q, gate)
  if not q.limited then return false end
  local family = family_of(gate)
  q.limits = q.limits or {}
  local limit = q.limits[family]
  if limit == nil then
    local packed = call('HGET', q.base .. 'limits', family)
    limit = packed and decode(packed)
    q.limits[family] = limit
  end
  return limit
end

-- What few scripts need is made when it is first asked for: to make a dozen functions takes a tenth of a short script.
local gatekeeper
local function gates()
  if gatekeeper then return gatekeeper end

  local function inside(q, gate)
    if gate == '' then return call('ZCOUNT', q.base .. 'leased', '-inf', '(+inf') end
    return tonumber(call('HGET', q.base .. 'running', gate) or 0)
  end

  -- How many more a gate lets through now.
  local function admitted(q, gate)
    local limit = limit_of(q, gate)
    if not limit then return huge end
    local room = limit[1] and max(0, limit[1] - inside(q, gate)) or huge
    if limit[2] then
      local key = q.base .. 'starts:' .. gate
      call('ZREMRANGEBYSCORE', key, '-inf', now - limit[3])
      room = min(room, max(0, limit[2] - call('ZCARD', key)))
    end
    return room
  end

  -- When time alone opens a gate that lets nobody through: never ('+inf'), if it is for those inside to leave.
  local function opens(q, gate)
    local limit = limit_of(q, gate)
    if not limit[2] or (limit[1] and inside(q, gate) >= limit[1]) then return '+inf' end
    local first = call('ZRANGE', q.base .. 'starts:' .. gate, -limit[2], -limit[2], 'WITHSCORES')[2]
    -- Never now: what a sum of fractions is rounded to must not make anybody look again at once.
    return max(first + limit[3], now + 0.001)
  end

  -- Let the index have the first message of a lane, unless its gate is shut.
  local function index(q, priority, gate, shut)
    local base, lane = q.base, priority .. ':' .. gate
    local first = call('ZRANGE', base .. 'lane:' .. lane, 0, 0, 'WITHSCORES')
    local was, is = call('HGET', base .. 'heads', lane), first[1] and sub(first[1], 1, 16) .. gate
    if was and (shut or was ~= is) then call('ZREM', base .. 'heads:' .. priority, was) end
    if is then
      if was ~= is then call('HSET', base .. 'heads', lane, is) end
      if not shut then call('ZADD', base .. 'heads:' .. priority, first[2], is) end
    elseif was then
      call('HDEL', base .. 'heads', lane)
    end
  end

  -- Let the index have all that waits behind a gate, or nothing of it.
  local function index_all(q, gate, shut)
    for _, priority in ipairs(call('ZRANGE', q.base .. 'lanes', 0, -1)) do index(q, priority, gate, shut) end
  end

  -- Put an open gate back into the index, if it was shut; whether it was.
  local function open(q, gate)
    if call('ZREM', q.base .. 'shut', gate) == 0 then return false end
    index_all(q, gate, false)
    return true
  end

  -- Messages have left gates: how many, by gate.
  local function leave(q, left)
    for gate, count in pairs(left) do
      if call('HINCRBY', q.base .. 'running', gate, -count) <= 0 then call('HDEL', q.base .. 'running', gate) end
      if open(q, gate) then q.stirred = true end
    end
  end

  -- Lanes have changed: gate and priority, by lane.
  local function reindex(q, lanes)
    for _, lane in pairs(lanes) do
      index(q, lane.priority, lane.gate, call('ZSCORE', q.base .. 'shut', lane.gate))
    end
  end

  gatekeeper = {inside = inside, admitted = admitted, opens = opens, index = index, index_all = index_all, open = open,
    leave = leave, reindex = reindex}
  return gatekeeper
end
