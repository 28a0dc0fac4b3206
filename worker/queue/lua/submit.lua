-- Create a job, unless it exists and has not ended. Remains of one that has ended are deleted.
--
-- ARGV: group, plan  the consumer group, and the first step
--       …            fields and values of the record
local group, plan = ARGV[1], ARGV[2]
local state = redis.call('HGET', job, 'state')
if state and state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then return 0 end
-- A script that has deleted something may write even if Redis is full. This fails then.
redis.call('XADD', steps, '*', 'step', plan)
redis.call('UNLINK', unpack(KEYS))
redis.call('XGROUP', 'CREATE', steps, group, '0', 'MKSTREAM')
redis.call('XADD', steps, '*', 'step', plan)
redis.call('HSET', job, unpack(ARGV, 3))  -- last: without the right to the others, there is no job
return 1
