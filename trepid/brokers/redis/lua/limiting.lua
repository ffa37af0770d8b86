-- A[3]: limits, as queue, family, and what it lets through, or nothing.
local changed = {}
for _, limit in ipairs(A[3]) do
  local q, family, packed = queue(limit[1]), limit[2], limit[3] and encode(limit[3])
  if q and (call('HGET', q.base .. 'limits', family) or nil) ~= packed then
    if packed then
      call('HSET', q.base .. 'limits', family, packed)
      call('HSET', q.meta, 'limited', 1)
    else
      call('HDEL', q.base .. 'limits', family)
      if call('EXISTS', q.base .. 'limits') == 0 then call('HDEL', q.meta, 'limited') end
    end
    changed[q] = changed[q] or {}
    changed[q][family] = true
  end
end
for q, families in pairs(changed) do
  -- Whom the new limits let through is found by the next lease.
  for _, gate in ipairs(call('ZRANGE', q.base .. 'shut', 0, -1)) do
    if families[family_of(gate)] then gates().open(q, gate) end
  end
  ring(q, true, {})
end
return 1
