-- Restart the lease and store the progress. Return 0 if the job was cancelled.
--
-- ARGV: worker, scored  the worker, and the images scored so far
local worker, scored = ARGV[5], ARGV[6]
if is_cancelling() and name ~= 'finish' then return 0 end
redis.call('XCLAIM', steps, group, worker, 0, message, 'JUSTID')
redis.call('HSET', progress, name, scored)
return 1
