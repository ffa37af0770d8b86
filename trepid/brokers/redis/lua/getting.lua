-- A[3]: id.  Nothing that can be read is changed: who reads lets time decide by itself.
local q = queue(1)
local blob = q and record(q, A[3])
if not blob then return {format('%.17g', now)} end
return {format('%.17g', now), blob, call('HGET', q.base .. 'body', A[3]), call('HGET', q.base .. 'errors', A[3])}
