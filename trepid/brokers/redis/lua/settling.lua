-- A[3]: settlements, as queue, id, place, delivery, kind and what that kind says; A[4]: follow-ups, perhaps.
local function fail(q, m, json)
  local l = m.life
  local attempt = l[FAILURES] - l[SPENT_FAILURES]
  if l[VERDICT] == 'W' then attempt = attempt + 1 end
  q.errors[m.id] = (q.errors[m.id] or '') .. format('%.17g %d ', now, attempt) .. json .. '\n'
end

local verdicts = {}

-- keep, place of the result in ARGV, why it is unreadable
function verdicts.D(q, m, said)
  local l = m.life
  l[STATE], l[OWNER], l[ENDED], l[FORGET], l[EXPIRES] = DONE, false, now, now + said[6], false
  l[UNREADABLE] = said[8] or false
  if said[7] and said[6] > 0 then q.results[m.id] = ARGV[said[7]] end
end

-- delay, error
function verdicts.F(q, m, said)
  local l = m.life
  l[FAILURES], l[EXPIRES], l[STRAY] = l[FAILURES] + 1, false, false
  fail(q, m, said[7])
  if l[CANCEL] then
    cancelled(l, now, l[CANCEL])
  elseif not said[6] then
    dead(l, now, 'failed')
  else
    l[STATE], l[DUE] = WAITING, now + said[6]
  end
end

-- delay, whether it is for want of an actor, whether it had been started, the gate from now on ('' for none), if it changes
function verdicts.R(q, m, said)
  local l = m.life
  l[RETURNS] = l[RETURNS] + 1
  l[STRAY] = said[7] and (l[STRAY] or now)
  if said[8] then l[EXPIRES] = false end
  if said[9] then l[GATE] = said[9] ~= '' and said[9] end
  if l[CANCEL] then
    cancelled(l, now, l[CANCEL])
  else
    l[STATE] = WAITING
    if said[6] then l[DUE] = now + said[6] end
  end
end

-- reason, error
function verdicts.B(q, m, said)
  local l = m.life
  l[FAILURES], l[EXPIRES] = l[FAILURES] + 1, false
  fail(q, m, said[7])
  dead(l, now, said[6])
end

-- keep, error, why, where nobody need have asked
function verdicts.W(q, m, said)
  local l = m.life
  l[WITHDRAWALS] = l[WITHDRAWALS] + 1
  if said[7] then fail(q, m, said[7]) end
  cancelled(l, now, l[CANCEL] or said[8], said[6])
end

local function settle(q, said)
  local m, reply = held(q, said[2], said[3], said[4])
  if not m then return reply end
  local l, kind = m.life, said[5]
  if reply ~= 'A' then
    if l[SETTLED] == said[4] and l[SEQ] == said[3] and l[VERDICT] == kind then reply = 'R' end
    aged(q, m)
    return reply
  end
  if kind == 'W' and not l[CANCEL] and not said[8] then return 'N' end
  l[OWNER], l[VERDICT], l[SETTLED] = false, kind, l[DELIVERIES]
  verdicts[kind](q, m, said)
  elapse(l)
  moved(q, m)
  return reply
end

-- The commonest end of all, without detours: done, by who holds the lease, and nothing had ever happened to it.
local quick = {}
local function done(q, said, blob)
  local l = blob and readable(blob)
  if not l or #l ~= RUNNING or l[STATE] ~= LEASED or l[SEQ] ~= said[3] or l[DELIVERIES] ~= said[4] or now >= l[UNTIL]
      or l[UNIQUE] or said[8] then
    return false
  end
  local lists = quick[q]
  if not lists then
    lists = {ids = {}, gone = {}, tokens = {}, lives = {}, done = {}, forget = {}, results = {}}
    quick[q] = lists
  end
  local id, keep = said[2], said[6]
  lists.ids[#lists.ids + 1] = id
  if keep <= 0 then
    local tokens = lists.tokens
    lists.gone[#lists.gone + 1] = id
    tokens[#tokens + 1] = l[PUBLISHER]
    tokens[#tokens + 1] = l[NUMBER]
    return true
  end
  l[STATE], l[OWNER], l[EXPIRES] = DONE, false, false
  l[VERDICT], l[SETTLED], l[ENDED], l[FORGET] = 'D', l[DELIVERIES], now, now + keep
  local n, lives, ended, forget = #lists.done, lists.lives, lists.done, lists.forget
  lives[n + 1], lives[n + 2] = id, encode(l)
  ended[n + 1], ended[n + 2] = l[SEQ], id
  forget[n + 1], forget[n + 2] = now + keep, id
  if said[7] then
    lists.results[#lists.results + 1] = id
    lists.results[#lists.results + 1] = ARGV[said[7]]
  end
  return true
end

local function write_done()
  for q, lists in pairs(quick) do
    local base = q.base
    all('ZREM', base .. 'leased', lists.ids)
    all('HDEL', base .. 'life', lists.gone)
    all('HDEL', base .. 'body', lists.gone)
    all('HSET', base .. 'life', lists.lives)
    all('ZADD', base .. 'done', lists.done)
    all('ZADD', base .. 'forget', lists.forget)
    all('HSET', base .. 'results', lists.results)
    depart(q, lists.tokens)
    ring(q, q.limited, lists.ids)
    keep_time()
  end
end

local wanted, blobs, replies = {}, {}, {}
local repeated = false
for i, said in ipairs(A[3]) do
  local q = queue(said[1])
  if q then
    local theirs = wanted[q]
    if not theirs then theirs = {ids = {}, places = {}, seen = {}} wanted[q] = theirs end
    local n, id = #theirs.ids + 1, said[2]
    theirs.ids[n], theirs.places[n] = id, i
    repeated = repeated or theirs.seen[id]
    theirs.seen[id] = true
  end
end
for q, theirs in pairs(wanted) do
  for first = 1, #theirs.ids, 1000 do
    local found = call('HMGET', q.base .. 'life', unpack(theirs.ids, first, min(first + 999, #theirs.ids)))
    for i, blob in ipairs(found) do blobs[theirs.places[first + i - 1]] = blob end
  end
end
for i, said in ipairs(A[3]) do
  local q = queue(said[1])
  if not q then
    replies[i] = 'U'
  elseif not repeated and said[5] == 'D' and done(q, said, blobs[i]) then
    replies[i] = 'A'
  else
    if not q.found[said[2]] then loaded(q, said[2], blobs[i]) end
    replies[i] = settle(q, said)
  end
end
write_done()
if A[4] and replies[1] == 'A' then
  publish(A[4])
end
flush()
for _, q in pairs(queues) do
  -- A little more than what has just ended, so that the past never piles up.
  if q then observe(q, max(100, #A[3])) end
end
return table.concat(replies)
