-- Replace the step by another one. Its fence goes too, so late commits change nothing.
--
-- ARGV: step  the new step
local step = ARGV[5]
acknowledge()
redis.call('HDEL', fences, name)
redis.call('XADD', steps, '*', 'step', step)
return 1
