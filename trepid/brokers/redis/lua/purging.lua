-- A[3]: states by name; A[4]: ids, or nil; A[5]: how many at most.  How many are gone, or nil without a queue.
local q = queue(1)
if not q then return false end
local wanted, doomed, seen = {}, {}, {}
for _, state in ipairs(A[3]) do wanted[state] = true end
local NAMES = {[DONE] = 'done', [DEAD] = 'dead', [CANCELLED] = 'cancelled', [LEASED] = 'leased'}

local function consider(ids)
  prefetch(q, ids)
  for _, id in ipairs(ids) do
    local m = stored(q, id)
    local l = not seen[id] and aged(q, m)
    seen[id] = true
    local name = l and (NAMES[l[STATE]] or (l[DUE] <= now and 'ready' or 'scheduled'))
    if name and wanted[name] and name ~= 'leased' and #doomed < A[5] then doomed[#doomed + 1] = m end
  end
end

if A[4] then
  consider(A[4])
else
  for _, state in ipairs({'done', 'dead', 'cancelled'}) do
    if wanted[state] then consider(call('ZRANGE', q.base .. state, 0, A[5] - 1)) end
  end
  for state, range in pairs({ready = {'-inf', now}, scheduled = {format('(%.17g', now), '+inf'}}) do
    if wanted[state] then
      for _, lane in ipairs(call('ZRANGE', q.base .. 'lanes', 0, -1)) do
        local found = call('ZRANGEBYSCORE', q.base .. 'lane:' .. lane, range[1], range[2], 'LIMIT', 0, A[5])
        for i, entry in ipairs(found) do found[i] = sub(entry, 17) end
        consider(found)
      end
      consider(call('ZRANGEBYSCORE', q.base .. 'gated', range[1], range[2], 'LIMIT', 0, A[5]))
    end
  end
end
for _, m in ipairs(doomed) do remove(q, m) end
flush()
return #doomed
