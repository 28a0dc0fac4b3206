-- Comes before the scripts that change a claimed step. They return 0 and change nothing if the
-- step was claimed again or is no longer pending.
--
-- ARGV: name, attempt, message  the step, the attempt of the claim, and the id in the stream
--       group                   the consumer group
local name, attempt, message, group = unpack(ARGV, 1, 4)
if redis.call('HGET', fences, name) ~= attempt then return 0 end
if #redis.call('XPENDING', steps, group, message, message, 1) == 0 then return 0 end

local function acknowledge()
    redis.call('XACK', steps, group, message)
    redis.call('XDEL', steps, message)
    redis.call('HDEL', progress, name)
end

local function is_cancelling()
    return redis.call('HGET', job, 'state') == 'cancelling'
end
