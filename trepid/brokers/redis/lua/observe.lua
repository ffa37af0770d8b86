-- Carry out what time has decided in a queue, for at most some messages of each kind; how many there were.
local function observe(q, most)
  local count = 0
  for _, key in ipairs({'leased', 'ttl', 'forget'}) do
    local ids = call('ZRANGEBYSCORE', q.base .. key, '-inf', now, 'LIMIT', 0, most)
    if #ids > 0 then
      prefetch(q, ids)
      for _, id in ipairs(ids) do
        local m = stored(q, id)
        if key == 'forget' then
          if m.life then remove(q, m) end
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
