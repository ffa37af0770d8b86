-- How a life changes, as trepid/rules/lifecycle.py says, and how the changes are written.
local DAY = 86400

local function touch(q, m)
  if not m.touched then
    m.touched = true
    q.touched[#q.touched + 1] = m
  end
end

local function holder(q, key)
  local id = q.holders[key]
  if id == nil then
    id = call('HGET', q.base .. 'uniques', key)
    q.holders[key] = id
  end
  return id
end

local function hold(q, key, id)
  q.holders[key] = id
  q.changed = q.changed or {}
  q.changed[key] = true
end

-- Unique keys that are kept for a time, whatever becomes of their messages; see `gates` for why they are made on demand.
local keeper
local function keeping()
  if keeper then return keeper end

  -- For whom a key is kept, and until when; or false.
  local function kept(q, key)
    q.kept = q.kept or {}
    local keep = q.kept[key]
    if keep == nil then
      local found = call('HGET', q.base .. 'kept', key)
      keep = false
      if found then
        local ends, id = string.match(found, '^(%S+) (.*)$')
        keep = {id = id, ends = tonumber(ends)}
      end
      q.kept[key] = keep
    end
    return keep and keep.ends > now and keep
  end

  local function keep(q, key, id, ends)
    q.kept = q.kept or {}
    q.kept[key] = ends and {id = id, ends = ends} or false
    q.keeping = q.keeping or {}
    q.keeping[key] = true
  end

  -- A few that are over go with each that comes.
  local function write(q)
    local ends, ids = q.base .. 'kept:ends', q.base .. 'kept'
    for _, key in ipairs(call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 20)) do
      call('ZREM', ends, key)
      call('HDEL', ids, key)
    end
    for key in pairs(q.keeping) do
      local theirs = q.kept[key]
      if theirs then
        call('ZADD', ends, theirs.ends, key)
        call('HSET', ids, key, format('%.17g ', theirs.ends) .. theirs.id)
      else
        call('ZREM', ends, key)
        call('HDEL', ids, key)
      end
    end
    -- All of them go by themselves where none comes any more.
    local last = call('ZRANGE', ends, -1, -1, 'WITHSCORES')[2]
    if last then
      local span = math.ceil(min(last - now + 60, 1e9))
      call('EXPIRE', ends, span)
      call('EXPIRE', ids, span)
    end
    q.keeping = nil
  end

  keeper = {kept = kept, keep = keep, write = write}
  return keeper
end

-- Forget a message, but not that it was published.
local function remove(q, m)
  local l = m.life
  if l[UNIQUE] and holder(q, l[UNIQUE]) == m.id then hold(q, l[UNIQUE], false) end
  q.gone[#q.gone + 1] = l[PUBLISHER]
  q.gone[#q.gone + 1] = l[NUMBER]
  -- Results and errors of the past: those of a damaged record count as no failure.
  m.erase = m.erase or m.stored and m.state >= DONE or l[FAILURES] + l[WITHDRAWALS] + l[REQUEUES] > 0
  m.life = false
  q.results[m.id], q.errors[m.id] = nil, nil
  q.over[#q.over + 1] = m.id
  touch(q, m)
end

-- To be called when the life of a live message has changed.
local function moved(q, m)
  local l = m.life
  touch(q, m)
  if l[STATE] >= DONE then
    local key = l[UNIQUE]
    if key then
      if holder(q, key) == m.id then hold(q, key, false) end
      -- What was cancelled has done nothing: the next one may.
      local theirs = l[STATE] == CANCELLED and keeping().kept(q, key)
      if theirs and theirs.id == m.id then keeping().keep(q, key) end
    end
    q.over[#q.over + 1] = m.id
    if l[FORGET] and l[FORGET] <= now then remove(q, m) end
  end
end

local function cancelled(l, at, reason, keep)
  l[STATE], l[OWNER], l[ENDED], l[REASON], l[EXPIRES], l[CANCEL] = CANCELLED, false, at, reason, false, reason
  l[FORGET] = at + (keep or l[RESULT_TTL] or DAY)
end

local function dead(l, at, reason)
  l[STATE], l[ENDED], l[REASON], l[FORGET] = DEAD, at, reason, false
end

local function elapse(l)
  local changed = false
  if l[STATE] == LEASED and now >= l[UNTIL] then
    l[CRASHES], l[OWNER], l[EXPIRES], l[STRAY] = l[CRASHES] + 1, false, false, false
    local recent = l[CRASHES] - l[SPENT_CRASHES]
    if l[CANCEL] then
      cancelled(l, l[UNTIL], l[CANCEL])
    elseif l[MAX_CRASHES] and recent >= l[MAX_CRASHES] then
      dead(l, l[UNTIL], 'poison')
    else
      l[STATE], l[DUE] = WAITING, l[UNTIL] + min(2 ^ min(recent - 1, 10), 60)
    end
    changed = true
  end
  if l[STATE] == WAITING and l[EXPIRES] and now >= l[DUE] and now >= l[EXPIRES] then
    dead(l, l[EXPIRES], 'expired')
    changed = true
  end
  return changed
end

-- Let time decide about a message; its life then, or false if there is none.
local function aged(q, m)
  local l = m.life
  if l and l[FORGET] and l[FORGET] <= now then return false end
  if l and elapse(l) then moved(q, m) end
  return m.life
end

-- What is known of a message whose life cannot be read: it is dead, and its error tells the bytes.  Its payload is as it
-- was, so it may be requeued.
function mended(q, id, blob)
  local base, state, place, lane, gate = q.base, DEAD, false, 0, call('HGET', q.base .. 'gates', id)
  local function at(key) return call('ZSCORE', base .. key, id) end
  if at('waiting') then
    state, place = WAITING, tonumber(at('waiting'))
    for _, name in ipairs(call('ZRANGE', base .. 'lanes', 0, -1)) do
      if call('ZSCORE', base .. 'lane:' .. lane_of(name, gate), format('%016.0f', place) .. id) then lane = tonumber(name) end
    end
  elseif at('leased') then
    state = LEASED
  else
    for ended, key in pairs(ENDS) do
      if at(key) then state, place = ended, tonumber(at(key)) end
    end
  end
  if not place then
    seq = seq + stride
    place = seq
  end
  local m = {id = id, stored = true, state = state, seq = place, due = now, priority = lane, expires = true, forget = true,
    asked = true, gate = gate, touched = false, body = false, erase = false}
  m.life = filled({WAITING, place, now, 0, lane, now, '', 0})
  m.life[GATE] = gate
  dead(m.life, now, 'undecodable')
  q.found[id] = m
  local bytes = string.gsub(sub(blob, 1, 1000), '.', function(c) return format('%02x', string.byte(c)) end)
  q.errors[id] = format('%.17g 0 ', now) .. cjson.encode({type = 'DamagedRecord',
    message = 'its record in Redis cannot be read; in hexadecimal: ' .. bytes}) .. '\n'
  moved(q, m)
  return m
end

local function all(command, key, list)
  for first = 1, #list, 4000 do call(command, key, unpack(list, first, min(first + 3999, #list))) end
end

-- Remember that some publishes were of messages that are gone: publisher and number by turns.  A publisher whose name
-- ends with a plus (see `settling.py`) may repeat itself long after.
local function depart(q, tokens)
  local pages = {}
  for i = 1, #tokens, 2 do
    local publisher, number = tokens[i], tokens[i + 1]
    local page = floor(number / 4096)
    local theirs = pages[publisher]
    if not theirs then theirs = {} pages[publisher] = theirs end
    local bits = theirs[page]
    if not bits then bits = {} theirs[page] = bits end
    local n = #bits
    bits[n + 1], bits[n + 2], bits[n + 3], bits[n + 4] = 'SET', 'u1', number % 4096, 1
  end
  for publisher, theirs in pairs(pages) do
    for page, bits in pairs(theirs) do
      local key = q.base .. 'gone:' .. publisher .. ':' .. format('%.0f', page)
      all('BITFIELD', key, bits)
      call('EXPIRE', key, sub(publisher, -1) == '+' and 86460 or 660)
    end
  end
end

-- Bells are hints: whoever may not publish only makes others wait for their next look.
local function ring(q, stirred, over)
  if stirred and q.armed then
    call('HDEL', q.meta, 'armed')
    redis.pcall('PUBLISH', q.base .. 'work', '')
    q.armed = false
  end
  if #over > 0 and call('EXISTS', q.base .. 'watched') == 1 then
    for _, id in ipairs(over) do
      if call('SREM', q.base .. 'watched', id) == 1 then redis.pcall('PUBLISH', q.base .. 'ended', id) end
    end
  end
end

local function keep_time()
  call('HSET', KEYS[1], 'clock', now, 'seq', seq)
end

-- The changes of one script, gathered into few commands.
local function flush()
  local written = false
  for _, q in pairs(queues) do
    if q and (#q.touched > 0 or q.changed) then
      written = true
      local base = q.base
      local passed, lanes, left, theirs = false, {}, {}, {}
      local removals, additions = {}, {}
      local function drop(key, what)
        local list = removals[key]
        if not list then list = {} removals[key] = list end
        list[#list + 1] = what
      end
      local function add(key, score, what)
        local list = additions[key]
        if not list then list = {} additions[key] = list end
        local n = #list
        list[n + 1], list[n + 2] = score, what
      end
      local erased, lost, lives, bodies, asked, answered = {}, {}, {}, {}, {}, {}
      for _, m in ipairs(q.touched) do
        local id, l = m.id, m.life
        if m.stored then
          if m.state == WAITING then
            local lane = lane_of(m.priority, m.gate)
            drop('lane:' .. lane, format('%016.0f', m.seq) .. id)
            drop('waiting', id)
            if m.gate then
              drop('gated', id)
              lanes[lane], passed = {gate = m.gate, priority = m.priority}, true
            end
            if m.expires then drop('ttl', id) end
          elseif m.state == LEASED then
            if not l or l[STATE] ~= LEASED then
              drop('leased', id)
              if q.limited then q.stirred = true end -- somebody else may pass now
              if m.gate then left[m.gate], passed = (left[m.gate] or 0) + 1, true end
              if m.asked then answered[#answered + 1] = id end
            end
          else
            drop(ENDS[m.state], id)
            if m.forget then drop('forget', id) end
          end
          if m.erase then lost[#lost + 1] = id end
        end
        local before, after = m.stored and m.state < DONE and m.gate, l and l[STATE] < DONE and l[GATE]
        if after and after ~= before then
          theirs[#theirs + 1], theirs[#theirs + 2] = id, after
        elseif before and not after then
          drop('gates', id)
        end
        if l then
          if l[STATE] == WAITING then
            local lane = lane_of(l[PRIORITY], after)
            add('lane:' .. lane, l[DUE], format('%016.0f', l[SEQ]) .. id)
            add('waiting', l[SEQ], id)
            if after then
              add('gated', l[DUE], id)
              lanes[lane], passed = {gate = after, priority = l[PRIORITY]}, true
            end
            if l[EXPIRES] then add('ttl', max(l[DUE], l[EXPIRES]), id) end
            q.stirred = true
          elseif l[STATE] == LEASED then
            add('leased', l[UNTIL], id)
            if l[CANCEL] then asked[#asked + 1] = id end
          else
            add(ENDS[l[STATE]], l[SEQ], id)
            if l[FORGET] then add('forget', l[FORGET], id) end
          end
          m.stored, m.state, m.seq, m.due, m.priority = true, l[STATE], l[SEQ], l[DUE], l[PRIORITY]
          m.expires, m.forget, m.asked, m.gate = l[EXPIRES], l[FORGET], l[CANCEL], l[GATE]
          local n = ENTRIES
          while l[n] == DEFAULTS[n] do n = n - 1 end
          local k = #lives
          lives[k + 1], lives[k + 2] = id, encode(n == ENTRIES and l or {unpack(l, 1, max(n, FRESH))})
          if m.body then
            bodies[#bodies + 1] = id
            bodies[#bodies + 1] = m.body
          end
        elseif m.stored then
          m.stored = false
          erased[#erased + 1] = id
        end
        m.touched, m.body, m.erase = false, false, false
      end
      -- What takes space comes first where nothing is removed: a full server refuses it, and then nothing is written.
      local frees = next(removals) ~= nil
      if not frees then all('HSET', base .. 'body', bodies) end
      for key, list in pairs(removals) do all(key == 'gates' and 'HDEL' or 'ZREM', base .. key, list) end
      all('HDEL', base .. 'life', erased)
      all('HDEL', base .. 'body', erased)
      all('HDEL', base .. 'errors', lost)
      all('HDEL', base .. 'results', lost)
      all('SREM', base .. 'asked', answered)
      if frees then all('HSET', base .. 'body', bodies) end
      all('HSET', base .. 'life', lives)
      for key, list in pairs(additions) do
        all('ZADD', base .. key, list)
        local priority = string.match(key, '^lane:(%-?%d+)')
        if priority then call('ZADD', base .. 'lanes', -priority, priority) end
      end
      if passed then
        if not q.gated then call('HSET', q.meta, 'gated', 1) end
        all('HSET', base .. 'gates', theirs)
        gates().leave(q, left)
        gates().reindex(q, lanes)
      end
      if q.keeping then keeping().write(q) end
      all('SADD', base .. 'asked', asked)
      for id, result in pairs(q.results) do call('HSET', base .. 'results', id, result) end
      for id, errors in pairs(q.errors) do
        call('HSET', base .. 'errors', id, (call('HGET', base .. 'errors', id) or '') .. errors)
      end
      for key in pairs(q.changed or {}) do
        if q.holders[key] then
          call('HSET', base .. 'uniques', key, q.holders[key])
        else
          call('HDEL', base .. 'uniques', key)
        end
      end
      depart(q, q.gone)
      ring(q, q.stirred, q.over)
      q.touched, q.changed, q.gone, q.over, q.results, q.errors = {}, nil, {}, {}, {}, {}
    end
  end
  if written then keep_time() end
end

-- The packed life of a message, if it is there; one that can be read.
local function record(q, id)
  local blob = call('HGET', q.base .. 'life', id)
  if not blob or readable(blob) then return blob end
  loaded(q, id, blob)
  flush()
  return call('HGET', q.base .. 'life', id)
end
