-- Comes before every script. A job's keys share a hash tag, so that a cluster keeps them on one node.
-- No script takes longer for a larger job: others wait for Redis meanwhile. `UNLINK` frees memory in
-- the background, where `DEL` would not.
--
-- KEYS: job       hash: the job's record
--       steps     stream: the job's steps, each delivered to one worker at a time
--       fences    hash: how often each step was claimed, or 'committed'
--       delayed   sorted set: failed steps by the time of the next attempt
--       dead      stream: dead letters
--       progress  hash: images scored so far in each shard in flight
--       staged    stream: shards of a plan before its commit
--       kept      hash: shards of a plan whose parts exist, before its commit; as fences
local job, steps, fences, delayed, dead, progress, staged, kept = unpack(KEYS)

-- End the job; only its record and its dead letters stay, until they expire. After a deletion, a
-- script may also write if Redis is full: jobs must be able to end then.
local function end_job(state, now, keep_seconds)
    redis.call('UNLINK', steps, fences, delayed, progress, staged, kept)
    redis.call('HSET', job, 'state', state, 'finished', now)
    redis.call('EXPIRE', job, keep_seconds)
    redis.call('EXPIRE', dead, keep_seconds)
end
