-- End the job; only its record stays.
--
-- ARGV: now, keep_seconds  seconds since the epoch, and how long the record is kept
local now, keep_seconds = ARGV[5], ARGV[6]
redis.call('HSET', job, 'state', is_cancelling() and 'cancelled' or 'done', 'finished', now)
redis.call('DEL', steps, fences, delayed, progress)
redis.call('EXPIRE', job, keep_seconds)
return 1
