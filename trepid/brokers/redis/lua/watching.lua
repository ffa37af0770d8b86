-- Have the ends of some messages told.  It is a hint: who may not leave word, since the server is full or cannot write to its
-- disk, looks now and then.  A server that has become a replica is to be complained of.
local function watch(q, ids)
  local key = q.base .. 'watched'
  for first = 1, #ids, 4000 do
    local some = {unpack(ids, first, min(first + 3999, #ids))}
    local said = redis.pcall('SADD', key, unpack(some))
    local trouble = type(said) == 'table' and said.err
    if trouble then
      if string.find(trouble, '^OOM') or string.find(trouble, '^MISCONF') then return end
      call('SADD', key, unpack(some)) -- which raises it
    end
  end
  call('EXPIRE', key, 3600)
end
