-- Schedule another attempt.
--
-- ARGV: step, pause_seconds  the step, and the time until the next attempt
local step, pause_seconds = ARGV[5], ARGV[6]
local time = redis.call('TIME')
acknowledge()
redis.call('ZADD', delayed, time[1] + time[2] / 1000000 + pause_seconds, step)
return 1
