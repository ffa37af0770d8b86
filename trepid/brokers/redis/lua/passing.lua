-- The ready messages of a queue with gates, one after the other, as trepid/brokers/memory/passing.py gives them: those
-- without a gate and those behind open ones, by priority, due time and place.

-- What one call has done besides granting leases: full gates that it has shut, and messages that it found dead.  There may
-- be very many of both at once, say after a limit was lowered; then the next call goes on, so that nobody else has to wait.
local spent, ENOUGH = 0, 1000
-- How many bytes it has granted, which are sent in one answer.
local size, BYTES = 0, 4194304

local usher
local function passing()
  if usher then return usher end

  -- A gate, or with '' the queue, as this script has met it: how many it still lets through, how many went in, and when.
  local function met(q, gate)
    local theirs = q.met[gate]
    if not theirs then
      local limit = limit_of(q, gate)
      theirs = {room = gates().admitted(q, gate), count = 0, starts = limit and limit[2] and {}, priorities = {}}
      q.met[gate] = theirs
    end
    return theirs
  end

  local function enter(theirs, l)
    theirs.room, theirs.count = theirs.room - 1, theirs.count + 1
    local starts = theirs.starts
    if starts then
      starts[#starts + 1] = now
      starts[#starts + 1] = format('%.0f:%d', l[SEQ], l[DELIVERIES])
    end
  end

  -- Go on to the next message of a lane; whether there is one.
  local function advance(q, line)
    line.at = line.at + 2
    if not line.found[line.at] then
      -- Nothing is written before the end, so what was looked at is still there, in front.
      line.found = call('ZRANGEBYSCORE', q.base .. 'lane:' .. line.lane, '-inf', now, 'WITHSCORES', 'LIMIT',
        q.offsets[line.lane] or 0, line.most)
      line.at, line.most = 1, min(2 * line.most, 64)
    end
    local entry = line.found[line.at]
    if not entry then return false end
    line.due, line.seq, line.id = tonumber(line.found[line.at + 1]), sub(entry, 1, 16), sub(entry, 17)
    return true
  end

  local function earlier(due, seq, line)
    return due < line.due or due == line.due and seq < line.seq
  end

  -- Put a line in its place among others: the one whose turn it is stands at the end.
  local function line_up(lines, line)
    local low, high = 1, #lines + 1
    while low < high do
      local middle = floor((low + high) / 2)
      if earlier(line.due, line.seq, lines[middle]) then low = middle + 1 else high = middle end
    end
    table.insert(lines, low, line)
  end

  -- All lines of one priority: those that are being read, and the index of those that are not yet.
  local function stream(q, priority)
    local s = q.streams[priority]
    if not s then
      s = {lines = {}, heads = {}, at = 1, looked = 0, more = true}
      q.streams[priority] = s
      local line = {lane = priority, found = {}, at = 1, most = 16}
      if advance(q, line) then line_up(s.lines, line) end
    end
    return s
  end

  -- Take the line whose first message is next, or nil if there is none that may pass.
  local function next_line(q, priority)
    local s = stream(q, priority)
    while spent < ENOUGH do
      if s.more and not s.heads[s.at] then
        s.heads = call('ZRANGEBYSCORE', q.base .. 'heads:' .. priority, '-inf', now, 'WITHSCORES', 'LIMIT', s.looked, 64)
        s.at, s.looked, s.more = 1, s.looked + 64, #s.heads == 128
      end
      local line, head = s.lines[#s.lines], s.heads[s.at]
      if head and (not line or earlier(tonumber(s.heads[s.at + 1]), sub(head, 1, 16), line)) then
        s.at = s.at + 2
        local gate = sub(head, 17)
        local theirs = met(q, gate)
        theirs.priorities[priority] = true
        if theirs.room > 0 then
          line = {lane = lane_of(priority, gate), gate = theirs, found = {}, at = 1, most = 2}
          if advance(q, line) then line_up(s.lines, line) end
        else
          spent = spent + 1
        end
      elseif line then
        s.lines[#s.lines] = nil
        if not line.gate or line.gate.room > 0 then return line end
      else
        return nil
      end
    end
  end

  -- The messages of a queue with gates, one after the other.
  local function pass(q, most, grant)
    local took, base = 0, q.base
    for _, priority in ipairs(q.lanes) do
      while took < most and size < BYTES and spent < ENOUGH do
        local line = next_line(q, priority)
        if not line then break end
        local lane, id, gate = line.lane, line.id, line.gate
        q.offsets[lane] = (q.offsets[lane] or 0) + 1
        local more, _, l = grant(q, {id}, {call('HGET', base .. 'life', id)}, {call('HGET', base .. 'body', id)})
        took = took + more
        if l and gate then enter(gate, l) end
        if (not gate or gate.room > 0) and advance(q, line) then line_up(stream(q, priority).lines, line) end
      end
    end
    return took
  end

  -- Write down who went through which gate.
  local function write_met(q)
    for gate, theirs in pairs(q.met) do
      local starts = theirs.starts
      if starts and #starts > 0 then
        local key, span = q.base .. 'starts:' .. gate, limit_of(q, gate)[3] + 60
        all('ZADD', key, starts)
        call('EXPIRE', key, math.ceil(min(span, 1e9)))
        -- Which there are, for who deletes the queue.
        local rated = q.base .. 'rated'
        call('ZREMRANGEBYSCORE', rated, '-inf', now)
        call('ZADD', rated, now + span, gate)
        call('EXPIRE', rated, math.ceil(min(call('ZRANGE', rated, -1, -1, 'WITHSCORES')[2] - now, 1e9)))
      end
      if gate == '' then
        q.opens = theirs.room <= 0 and gates().opens(q, gate)
      else
        if theirs.count > 0 then call('HINCRBY', q.base .. 'running', gate, theirs.count) end
        if theirs.room <= 0 then
          call('ZADD', q.base .. 'shut', gates().opens(q, gate), gate)
          gates().index_all(q, gate, true)
        else
          for priority in pairs(theirs.priorities) do gates().index(q, priority, gate, false) end
        end
      end
    end
  end

  usher = {met = met, enter = enter, pass = pass, write = write_met}
  return usher
end
