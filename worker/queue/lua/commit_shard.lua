-- Count a shard whose part is written. The last one adds the final step; return 2 then. If too many
-- images of a running job are errors, it fails.
--
-- ARGV: done, failed        images scored, and images that could not be read
--       finish              the final step
--       max_failed          images of the job that may be errors; less than 0 for no limit
--       error, keep_seconds  why it fails then, and how long the records are kept
local done, failed, finish, max_failed, error, keep_seconds = unpack(ARGV, 5, 10)
acknowledge()
redis.call('HSET', fences, name, 'committed')
redis.call('HINCRBY', job, 'done', done)
local all_failed = redis.call('HINCRBY', job, 'failed', failed)
local remaining = redis.call('HINCRBY', job, 'remaining', -1)
if redis.call('HGET', job, 'state') ~= 'running' then return 1 end
if tonumber(max_failed) >= 0 and all_failed > tonumber(max_failed) then
    redis.call('HSET', job, 'error', error)
    end_job('failed', redis.call('TIME')[1], keep_seconds)
    return 1
end
if remaining ~= 0 then return 1 end
redis.call('HSET', job, 'state', 'finishing')
redis.call('XADD', steps, '*', 'step', finish)
return 2
