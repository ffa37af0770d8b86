-- A[3] to A[7]: limit, lease_for, owner, which queue is first, whether the caller will wait.
local limit, lease_for, owner, turn, waits = A[3], A[4], A[5], A[6], A[7]
local BYTES, AT_ONCE = 4194304, 250
limit = min(limit, 4000) -- what is returned stands on Lua's stack
local ends, metas, bodies, size = now + lease_for, {}, {}, 0
local open = {}
for i = 1, #KEYS - 1 do
  local q = queue(i)
  if q then
    observe(q, 100)
    if not q.paused then
      q.index, q.taken = i, {}
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
  local count = 0
  for _, lane in ipairs(q.lanes) do
    while count < most and size < BYTES do
      local offset, wanted = q.taken[lane] or 0, min(most - count, AT_ONCE)
      local found = call('ZRANGEBYSCORE', q.base .. 'lane:' .. lane, '-inf', now, 'LIMIT', offset, wanted)
      if #found == 0 then break end
      local ids, granted = {}, {}
      for i, entry in ipairs(found) do ids[i] = sub(entry, 17) end
      prefetch(q, ids)
      local payloads = call('HMGET', q.base .. 'body', unpack(ids))
      for i, id in ipairs(ids) do
        if size >= BYTES then break end
        local m = stored(q, id)
        local l = aged(q, m)
        q.taken[lane] = (q.taken[lane] or 0) + 1
        if l and l[STATE] == WAITING then
          l[STATE], l[DELIVERIES], l[OWNER], l[UNTIL] = LEASED, l[DELIVERIES] + 1, owner, ends
          touch(q, m)
          metas[#metas + 1] = {q.index, id, l[SEQ], l[DELIVERIES], l[PRIORITY], l[FAILURES] - l[SPENT_FAILURES],
            l[CRASHES] - l[SPENT_CRASHES], l[DUE], l[ENQUEUED], l[STRAY], l[RESULT_TTL], l[MAX_CRASHES]}
          bodies[#bodies + 1] = payloads[i] or ''
          size = size + #(payloads[i] or '')
          count = count + 1
        end
      end
      if #found < wanted then break end
    end
  end
  return count == most
end

while #open > 0 and #metas < limit and size < BYTES do
  local share, more = math.ceil((limit - #metas) / #open), {}
  for _, q in ipairs(open) do
    local most = min(share, limit - #metas)
    if most > 0 and take(q, most) then more[#more + 1] = q end
  end
  open = more
end
flush()
local wait = false
if #metas == 0 then
  for _, q in ipairs(asked) do
    local function look(key, from)
      local first = call('ZRANGEBYSCORE', q.base .. key, from, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
      if first then wait = min(wait or first - now, first - now) end
    end
    look('leased', '-inf')
    for _, lane in ipairs(q.lanes) do look('lane:' .. lane, format('(%.17g', now)) end
  end
  if waits then
    for i = 1, #KEYS - 1 do
      local q = queue(i)
      if q and not q.armed then call('HSET', q.meta, 'armed', 1) end
    end
  end
end
return {encode({now, turned, wait, metas}), unpack(bodies)}
