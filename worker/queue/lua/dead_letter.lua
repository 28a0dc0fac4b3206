-- Fail the job and keep the step as a dead letter.
--
-- ARGV: step, error        the step, and why it failed
--       now, keep_seconds  seconds since the epoch, and how long the records are kept
local step, error, now, keep_seconds = unpack(ARGV, 5, 8)
acknowledge()  -- first, see `end_job`
redis.call('XADD', dead, '*', 'step', step, 'error', error)
redis.call('HSET', job, 'error', error)
end_job('failed', now, keep_seconds)
return 1
