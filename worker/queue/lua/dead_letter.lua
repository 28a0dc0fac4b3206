-- Fail the job and keep the step as a dead letter.
--
-- ARGV: step, error        the step, and why it failed
--       now, keep_seconds  seconds since the epoch, and how long the records are kept
local step, error, now, keep_seconds = unpack(ARGV, 5, 8)
redis.call('XADD', dead, '*', 'step', step, 'error', error)
redis.call('HSET', job, 'state', 'failed', 'error', error, 'finished', now)
redis.call('DEL', steps, fences, delayed, progress)
redis.call('EXPIRE', job, keep_seconds)
redis.call('EXPIRE', dead, keep_seconds)
return 1
