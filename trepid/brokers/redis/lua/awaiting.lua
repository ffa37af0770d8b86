-- A[3]: id; A[4]: whether the caller will wait.
local q = queue(1)
local blob = q and record(q, A[3])
if not blob then return {format('%.17g', now)} end
local state = decode(blob)[STATE]
if A[4] and state < DONE then watch(q, {A[3]}) end
return {format('%.17g', now), blob, call('HGET', q.base .. 'results', A[3]), call('HGET', q.base .. 'errors', A[3])}
