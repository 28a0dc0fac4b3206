-- Claim the next step of a job: one whose lease has expired, else a new one. Return its message,
-- the step and the attempt; false if there is none; 'gone' if the job needs no more work.
-- Times come from Redis: the clocks of workers differ.
--
-- ARGV: group, worker  the consumer group, and the claiming worker
--       lease_ms       idle time in ms after which a step is claimed from another worker
--       finish         the final step
--       max_delayed    maximum number of delayed steps that become due in one call
local group, worker, lease_ms, finish, max_delayed = unpack(ARGV, 1, 5)
local state = redis.call('HGET', job, 'state')
if not state or state == 'done' or state == 'failed' or state == 'cancelled' then return 'gone' end

local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for _, step in ipairs(
    redis.call('ZRANGEBYSCORE', delayed, '-inf', now, 'LIMIT', 0, max_delayed)) do
    redis.call('ZREM', delayed, step)
    redis.call('XADD', steps, '*', 'step', step)
end

local max_in_flight = tonumber(redis.call('HGET', job, 'most_in_flight') or 0)

local function in_flight()
    return redis.call('XPENDING', steps, group)[1]
end

local function next_expired()
    return redis.call('XAUTOCLAIM', steps, group, worker, lease_ms, '0', 'COUNT', 1)[2][1]
end

local function next_new()
    if max_in_flight > 0 and in_flight() >= max_in_flight then return nil end
    local streams = redis.call(
        'XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', steps, '>')
    return streams and streams[1] and streams[1][2][1]
end

-- The final step of a cancelled job waits until no other one is in flight, and replaces all others.
if state == 'cancelling' and not redis.call('HGET', job, 'drained') then
    local expired = next_expired()
    while expired do
        redis.call('XACK', steps, group, expired[1])
        expired = next_expired()
    end
    if in_flight() > 0 then return false end
    redis.call('UNLINK', steps, delayed, progress)
    redis.call('XGROUP', 'CREATE', steps, group, '0', 'MKSTREAM')
    redis.call('XADD', steps, '*', 'step', finish)
    redis.call('HSET', job, 'drained', 1)
end

local message = next_expired() or next_new()
if not message then return false end
local step = message[2][2]
local attempt = redis.call('HINCRBY', fences, cjson.decode(step)['name'], 1)
if state == 'queued' then redis.call('HSET', job, 'state', 'planning') end
return {message[1], step, attempt}
