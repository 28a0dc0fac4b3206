-- Cancel a job and return the state that it had. A queued job ends at once. For a running job,
-- workers release or commit the steps in flight, and the next claim adds the final step.
--
-- ARGV: now, keep_seconds  seconds since the epoch, and how long the record is kept
local now, keep_seconds = ARGV[1], ARGV[2]
local state = redis.call('HGET', job, 'state')
if state == 'queued' then
    redis.call('HSET', job, 'state', 'cancelled', 'finished', now)
    redis.call('DEL', steps, fences, delayed, progress)
    redis.call('EXPIRE', job, keep_seconds)
elseif state == 'planning' or state == 'running' then
    redis.call('HSET', job, 'state', 'cancelling')
    redis.call('DEL', delayed)
end
return state
