-- Count a shard whose part is written. The last one adds the final step; return 2 then.
--
-- ARGV: done, failed  images scored, and images that could not be read
--       finish        the final step
local done, failed, finish = ARGV[5], ARGV[6], ARGV[7]
acknowledge()
redis.call('HSET', fences, name, 'committed')
redis.call('HINCRBY', job, 'done', done)
redis.call('HINCRBY', job, 'failed', failed)
local remaining = redis.call('HINCRBY', job, 'remaining', -1)
if remaining ~= 0 or redis.call('HGET', job, 'state') ~= 'running' then return 1 end
redis.call('HSET', job, 'state', 'finishing')
redis.call('XADD', steps, '*', 'step', finish)
return 2
