-- Comes before every script. A job's keys share a hash tag, so that a cluster keeps them on one node.
--
-- KEYS: job       hash: the job's record
--       steps     stream: the job's steps, each delivered to one worker at a time
--       fences    hash: how often each step was claimed, or 'committed'
--       delayed   sorted set: failed steps by the time of the next attempt
--       dead      stream: dead letters
--       progress  hash: images scored so far in each shard in flight
local job, steps, fences, delayed, dead, progress = unpack(KEYS)
