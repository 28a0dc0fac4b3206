-- Return submissions whose webhooks are due, and lease them to the caller.
--
-- KEYS: webhooks              sorted set: submissions by the time of the next look
-- ARGV: limit, lease_seconds  maximum number, and how long no other caller gets them
local webhooks, limit, lease_seconds = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local due = redis.call('ZRANGEBYSCORE', webhooks, '-inf', now, 'LIMIT', 0, limit)
for _, submission in ipairs(due) do
    redis.call('ZADD', webhooks, now + lease_seconds, submission)
end
return due
