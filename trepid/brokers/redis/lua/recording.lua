-- KEYS[2] is what the keys of records begin with.  A[3]: steps, as kind, the place of the key, of the value and of the
-- condition in ARGV or nil, ttl; A[4]: where to tell.  What was there.
local before = {}
for i, step in ipairs(A[3]) do
  local key, value, only = KEYS[2] .. ':' .. ARGV[step[2]], step[3] and ARGV[step[3]], step[4] and ARGV[step[4]]
  local found = call('GET', key)
  if found then
    local ends = struct.unpack('d', found)
    found = (ends == 0 or ends > now) and sub(found, 9)
  end
  before[i] = found
  local kind, changed = step[1], true
  local fits = not step[4] or found == only
  if (kind == 'C' and not found) or (kind == 'W' and fits) then
    call('SET', key, struct.pack('d', step[5] and now + step[5] or 0) .. value)
    if step[5] then call('PEXPIRE', key, min(math.ceil(step[5] * 1000) + 1000, 1e15)) end
  elseif kind == 'D' and found and fits then
    call('DEL', key)
  else
    changed = false
  end
  if changed then redis.pcall('PUBLISH', A[4], ARGV[step[2]]) end
end
return before
