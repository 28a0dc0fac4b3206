-- Put a step back into the stream. The attempt does not count: the next claim gets its number.
--
-- ARGV: step
local step = ARGV[5]
acknowledge()
redis.call('HINCRBY', fences, name, -1)
redis.call('XADD', steps, '*', 'step', step)
return 1
