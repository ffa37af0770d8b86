-- A[3]: ids; A[4]: whether the caller will wait.  The time; in how many seconds time alone may end one that lives; how many
-- of the ids were looked at; the places of those that are gone, and of those that have ended; and of the latter lives,
-- results and errors.
local BYTES = 4194304
local q, ids = queue(1), A[3]
local gone, ended, alive, lives, size, looked, wait = {}, {}, {}, {}, 0, 0, false
if q then prefetch(q, ids) end
for i, id in ipairs(ids) do
  if size >= BYTES then break end
  looked = i
  local l = q and aged(q, stored(q, id))
  if not l then
    gone[#gone + 1] = i
  elseif l[STATE] >= DONE then
    ended[#ended + 1] = i
    size = size + call('HSTRLEN', q.base .. 'results', id) + call('HSTRLEN', q.base .. 'errors', id)
  else
    alive[#alive + 1] = id
    local moment = l[STATE] == LEASED and l[UNTIL] or l[EXPIRES] and max(l[DUE], l[EXPIRES])
    if moment then wait = min(wait or moment - now, moment - now) end
  end
end
flush()
local results, errors = {}, {}
for k, i in ipairs(ended) do
  lives[k] = call('HGET', q.base .. 'life', ids[i])
  results[k], errors[k] = call('HGET', q.base .. 'results', ids[i]), call('HGET', q.base .. 'errors', ids[i])
end
if A[4] and #alive > 0 then watch(q, alive) end
return {encode({now, wait, looked, gone, ended}), lives, results, errors}
