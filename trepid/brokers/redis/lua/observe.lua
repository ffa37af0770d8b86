-- The record of a message is gone, by somebody's hand: what else would bring it up again and again goes, too.
local function let_go(q, key, id)
  local base, gate, place = q.base, call('HGET', q.base .. 'gates', id), call('ZSCORE', q.base .. key, id)
  call('ZREM', base .. key, id)
  if key ~= 'leased' and key ~= 'waiting' then return end
  call('HDEL', base .. 'body', id)
  call('HDEL', base .. 'gates', id)
  if key == 'leased' then
    if gate then gates().leave(q, {[gate] = 1}) end
    if q.limited then ring(q, true, {}) end
  else
    for _, priority in ipairs(call('ZRANGE', base .. 'lanes', 0, -1)) do
      call('ZREM', base .. 'lane:' .. lane_of(priority, gate), format('%016.0f', place) .. id)
    end
    if gate then
      call('ZREM', base .. 'gated', id)
      gates().index_all(q, gate, call('ZSCORE', base .. 'shut', gate))
    end
  end
end

-- Carry out what time has decided in a queue, for at most some messages of each kind; how many there were.
local function observe(q, most)
  local count = 0
  for _, key in ipairs({'leased', 'ttl', 'forget'}) do
    local ids = call('ZRANGEBYSCORE', q.base .. key, '-inf', now, 'LIMIT', 0, most)
    if #ids > 0 then
      prefetch(q, ids)
      for _, id in ipairs(ids) do
        local m = stored(q, id)
        if not m.life then
          let_go(q, key, id)
        elseif key == 'forget' then
          remove(q, m)
        else
          aged(q, m)
        end
      end
      flush()
      count = count + #ids
    end
  end
  return count
end
