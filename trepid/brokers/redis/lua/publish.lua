-- Publishing, as trepid/rules/publishing.py says.  Items: queue, id, publisher, number, place of the payload in ARGV,
-- priority, delay, due, ttl, unique key, what to do on conflict, result_ttl, max_crashes, for how long the key is kept,
-- gate.
local function departed(q, publisher, number)
  local place = floor(number / 4096)
  q.pages = q.pages or {}
  local theirs = q.pages[publisher]
  if not theirs then theirs = {} q.pages[publisher] = theirs end
  local page = theirs[place]
  if not page then
    page = call('GET', q.base .. 'gone:' .. publisher .. ':' .. format('%.0f', place)) or ''
    theirs[place] = page
  end
  if page == '' then return false end
  local offset = number % 4096
  local byte = string.byte(page, floor(offset / 8) + 1)
  return byte ~= nil and floor(byte / 2 ^ (7 - offset % 8)) % 2 == 1
end

-- Whether the publish belongs to a queue that was deleted since.
local function buried(q, id, publisher, number)
  if not q.graves then q.graves = call('ZRANGE', q.base .. 'graves', 0, -1) end
  for _, grave in ipairs(q.graves) do
    local blob = call('HGET', grave, id)
    if blob then
      local l = readable(blob)
      if l and l[PUBLISHER] == publisher and l[NUMBER] == number then return true end
    end
  end
  return false
end

local function same(l, item)
  return l[PUBLISHER] == item[3] and l[NUMBER] == item[4]
end

local function plan(q, item)
  local id = item[2]
  local m = stored(q, id)
  if departed(q, item[3], item[4]) or buried(q, id, item[3], item[4]) then return 'D', id end
  local named = q.names[id]
  if named then
    if named[3] == item[3] and named[4] == item[4] then return 'D', id end
    return 'E', id
  end
  if m.life and same(m.life, item) then return 'D', id end
  local l = aged(q, m)
  if l and l[STATE] < DONE then return 'E', id end
  local key = item[10]
  if not key then return 'A', id end
  local other = q.claimed[key]
  local state = WAITING
  if not other then
    other = holder(q, key)
    local theirs = other and aged(q, stored(q, other))
    state = theirs and theirs[STATE] or DONE
    if state >= DONE then
      local keep = keeping().kept(q, key)
      if not keep then return 'A', id end
      other = keep.id
    end
  end
  if item[11] == 'raise' then return 'C', other end
  if item[11] == 'replace' and state == WAITING then return 'A', id, true end
  return 'E', other
end

local function insert(q, item, withdraw)
  local id, key = item[2], item[10]
  if withdraw then
    local other = stored(q, holder(q, key))
    local l = aged(q, other) -- one of this very batch may have had no time at all
    if l and l[STATE] < DONE then
      cancelled(other.life, now, 'replaced by ' .. id)
      moved(q, other)
    end
  end
  local m = stored(q, id)
  if m.life then remove(q, m) end
  local due = max(now, item[8] or now + (item[7] or 0))
  seq = seq + stride
  m.life = {WAITING, seq, due, 0, item[6], now, item[3], item[4], item[13] or false, item[12] or false,
    item[9] and due + item[9] or false, key or false}
  for i = UNIQUE + 1, UNREADABLE do m.life[i] = DEFAULTS[i] end
  m.life[GATE] = item[15] or false
  m.body = ARGV[item[5]]
  if key then
    hold(q, key, id)
    if item[14] then keeping().keep(q, key, id, now + item[14]) end
  end
  if q.space and not withdraw then q.space = q.space - 1 end
  touch(q, m)
end

-- Find out how many more messages a queue takes, of so many, if that is limited.
local function measure(q, more)
  local limit = limit_of(q, '')
  if not limit or not limit[4] then return end
  local function late(key) return call('ZCOUNT', q.base .. key, '-inf', now) > 0 end
  repeat
    q.space = limit[4] - call('ZCARD', q.base .. 'waiting') - gates().inside(q, '')
    -- What time has ended takes no room, although nobody has looked.
    local past = q.space < more and (late('leased') or late('ttl'))
    if past then observe(q, 1000) end
  until not past
end

-- Refuse what is new in a queue that was measured and has no room for all of it; whether anything was refused.
local function fit(items, outcomes, withdrawals)
  local wanted, refused = {}, false
  for i, item in ipairs(items) do
    local q = queue(item[1])
    if q and q.space and outcomes[i] == 'A' then
      wanted[q] = (wanted[q] or 0) + (withdrawals[i] and 0 or 1)
    end
  end
  for q, more in pairs(wanted) do
    if more == 0 or more <= q.space then wanted[q] = nil end
  end
  for i, item in ipairs(items) do
    if outcomes[i] == 'A' and wanted[queue(item[1])] then outcomes[i], refused = 'F', true end
  end
  return refused
end

-- Store messages, all or none; the outcomes, and the ids where they are not the items' own.
local function publish(items)
  local outcomes, ids, withdrawals, refused = {}, {}, {}, false
  local named = {}
  for _, item in ipairs(items) do
    local q = queue(item[1])
    if q then
      q.names, q.claimed = q.names or {}, q.claimed or {}
      if not named[q] then named[q] = {} end
      table.insert(named[q], item[2])
    end
  end
  for q, its in pairs(named) do prefetch(q, its) end
  for i, item in ipairs(items) do
    local q = queue(item[1])
    if q then
      outcomes[i], ids[i], withdrawals[i] = plan(q, item)
      if outcomes[i] == 'A' then
        q.names[item[2]] = item
        if item[10] then q.claimed[item[10]] = item[2] end
      end
    else
      outcomes[i], ids[i] = 'Q', item[2]
    end
    refused = refused or outcomes[i] == 'Q' or outcomes[i] == 'C'
  end
  refused = fit(items, outcomes, withdrawals) or refused
  for q in pairs(named) do q.names, q.claimed = nil, nil end
  for i, item in ipairs(items) do
    if outcomes[i] == 'A' then
      if refused then outcomes[i] = 'N' else insert(queue(item[1]), item, withdrawals[i]) end
    end
    if ids[i] == item[2] then ids[i] = false end
  end
  return outcomes, ids
end
