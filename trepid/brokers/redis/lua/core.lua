-- What every script begins with: its arguments, the time, queues, and messages as tables.
--
-- KEYS[1] is the head (the clock's high-water mark, the last place given); then come the queues' own hashes, and in a
-- cluster a key that never exists: while a slot is on its way to another server, a script that names it is not run.
-- ARGV[1] is packed: the time (or nil: the server's), whether this is a cluster, then what each script says.  A script
-- reads, changes tables, and writes only at its end (flush): what fails before that has changed nothing.
local call, decode, encode = redis.call, cmsgpack.unpack, cmsgpack.pack
local floor, format, min, max, sub = math.floor, string.format, math.min, math.max, string.sub
local A = decode(ARGV[1])
local head = call('HMGET', KEYS[1], 'clock', 'seq')
local now = A[1]
if not now then
  local time = call('TIME')
  now = time[1] + time[2] / 1000000
end
now = max(now, tonumber(head[1] or 0))
-- In a cluster queues give places by themselves; their numbers keep the places of different queues apart.
local stride, seq = 1, tonumber(head[2] or 0)
if A[2] then stride, seq = 65536, tonumber(head[2] or KEYS[2] and call('HGET', KEYS[2], 'number') or 0) end

-- A life is a list, in the order of `rows.py`.  What has its default at the end need not be there: a message that is
-- published, leased and done without any accident has 18 entries, and never all of them.
local STATE, SEQ, DUE, DELIVERIES, PRIORITY, ENQUEUED, PUBLISHER, NUMBER = 1, 2, 3, 4, 5, 6, 7, 8
local MAX_CRASHES, RESULT_TTL, EXPIRES, UNIQUE, OWNER, UNTIL = 9, 10, 11, 12, 13, 14
local VERDICT, SETTLED, ENDED, FORGET, FAILURES, CRASHES, RETURNS = 15, 16, 17, 18, 19, 20, 21
local WITHDRAWALS, SPENT_FAILURES, SPENT_CRASHES, REQUEUES, STRAY = 22, 23, 24, 25, 26
local REASON, CANCEL, UNREADABLE, GATE = 27, 28, 29, 30
local FRESH, RUNNING, ENTRIES = UNIQUE, UNTIL, GATE -- how many there are at first, while it runs, and at most
local DEFAULTS = {0, 0, 0, 0, 0, 0, '', 0, false, false, false, false, false, 0, false, 0, false, false, 0, 0, 0,
  0, 0, 0, 0, false, false, false, false, false}
local WAITING, LEASED, DONE, DEAD, CANCELLED = 0, 1, 2, 3, 4
-- A small sorted set is a list, and reading a list of fractions as scores takes half the time of a lease.  A member this
-- long, which no id can be and no range includes, makes it a tree from the beginning.
local GUARD = string.rep('\255', 65)
local ENDS = {[DONE] = 'done', [DEAD] = 'dead', [CANCELLED] = 'cancelled'}

local QUEUES = #KEYS - (A[2] and 2 or 1)
local queues = {}
local function queue(i)
  local q = queues[i]
  if q == nil then
    local facts = call('HMGET', KEYS[i + 1], 'declared', 'paused', 'armed', 'gated', 'limited')
    q = facts[1] and {base = sub(KEYS[i + 1], 1, -5), meta = KEYS[i + 1], paused = facts[2], armed = facts[3],
      gated = facts[4], limited = facts[5], found = {}, touched = {}, holders = {}, gone = {}, over = {}, results = {}, errors = {}} or false
    queues[i] = q
  end
  return q
end

local function filled(l)
  for i = #l + 1, ENTRIES do l[i] = DEFAULTS[i] end
  return l
end

-- A life as it was packed, or nil if somebody's hand has made it unreadable.
local function whole(blob)
  local l = decode(blob)
  local _ = l[STATE] + l[SEQ] + l[DUE] + l[DELIVERIES] + l[PRIORITY] + l[ENQUEUED] + l[NUMBER]
  return #l >= FRESH and #l <= ENTRIES and l
end

local function readable(blob)
  local fine, l = pcall(whole, blob)
  return fine and l or nil
end

local mended -- see moves

-- A message, and where it is written now, so that flush can take it away from there.
local function loaded(q, id, blob)
  local m
  if blob then
    local l = readable(blob)
    if not l then return mended(q, id, blob) end
    filled(l)
    m = {id = id, life = l, stored = true, state = l[STATE], seq = l[SEQ], due = l[DUE], priority = l[PRIORITY],
      expires = l[EXPIRES], forget = l[FORGET], asked = l[CANCEL], gate = l[GATE], touched = false, body = false, erase = false}
  else
    m = {id = id, life = false, stored = false}
  end
  q.found[id] = m
  return m
end

local function stored(q, id)
  return q.found[id] or loaded(q, id, call('HGET', q.base .. 'life', id))
end

local function prefetch(q, ids)
  for first = 1, #ids, 1000 do
    local blobs = call('HMGET', q.base .. 'life', unpack(ids, first, min(first + 999, #ids)))
    for i, blob in ipairs(blobs) do
      local id = ids[first + i - 1]
      if not q.found[id] then loaded(q, id, blob) end
    end
  end
end
