-- Cancel a job and return the state that it had. A queued job ends at once. For a running job,
-- workers release or commit the steps in flight, and a later claim adds the final step.
--
-- ARGV: now, keep_seconds  seconds since the epoch, and how long the record is kept
local state = redis.call('HGET', job, 'state')
if state == 'queued' then
    end_job('cancelled', ARGV[1], ARGV[2])
elseif state == 'planning' or state == 'running' then
    redis.call('UNLINK', delayed)  -- first, see `end_job`
    redis.call('HSET', job, 'state', 'cancelling')
end
return state
