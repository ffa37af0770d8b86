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

-- delay, whether it is for want of an actor, whether it had been started
function verdicts.R(q, m, said)
  local l = m.life
  l[RETURNS] = l[RETURNS] + 1
  l[STRAY] = said[7] and (l[STRAY] or now)
  if said[8] then l[EXPIRES] = false end
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

-- keep, error
function verdicts.W(q, m, said)
  local l = m.life
  l[WITHDRAWALS] = l[WITHDRAWALS] + 1
  if said[7] then fail(q, m, said[7]) end
  cancelled(l, now, l[CANCEL], said[6])
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
  if kind == 'W' and not l[CANCEL] then return 'N' end
  l[OWNER], l[VERDICT], l[SETTLED] = false, kind, l[DELIVERIES]
  verdicts[kind](q, m, said)
  elapse(l)
  moved(q, m)
  return reply
end

local wanted, replies = {}, {}
for _, said in ipairs(A[3]) do
  local q = queue(said[1])
  if q then
    wanted[q] = wanted[q] or {}
    table.insert(wanted[q], said[2])
  end
end
for q, ids in pairs(wanted) do prefetch(q, ids) end
for i, said in ipairs(A[3]) do
  local q = queue(said[1])
  replies[i] = q and settle(q, said) or 'U'
end
if A[4] and replies[1] == 'A' then
  publish(A[4])
end
flush()
for _, q in pairs(queues) do
  -- A little more than what has just ended, so that the past never piles up.
  if q then observe(q, max(100, #A[3])) end
end
return table.concat(replies)
