-- Delete the record of a job that has ended. Return 0 if it has not.
local state = redis.call('HGET', job, 'state')
if state and state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then return 0 end
redis.call('UNLINK', unpack(KEYS))
return 1
