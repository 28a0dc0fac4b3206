-- Add the shards of a plan to the stream, or the final step if every part exists already.
--
-- ARGV: total, revision, now  records in the source, its version, seconds since the epoch
--       done, failed          images of existing parts
--       finish                the final step
--       kept                  JSON list: names of the shards whose parts exist
--       …                     the shards to score
local total, revision, now, done, failed, finish, kept = unpack(ARGV, 5, 11)
local existing, first = cjson.decode(kept), 12
local shards = #ARGV - first + 1
acknowledge()
redis.call('HSET', fences, name, 'committed')
redis.call('HSET', job, 'total', total, 'revision', revision, 'started', now)
redis.call('HSET', job, 'shards', shards + #existing, 'remaining', shards)
redis.call('HSET', job, 'done', done, 'failed', failed)
for _, shard in ipairs(existing) do redis.call('HSET', fences, shard, 'committed') end
if is_cancelling() then return 1 end
redis.call('HSET', job, 'state', shards > 0 and 'running' or 'finishing')
if shards == 0 then redis.call('XADD', steps, '*', 'step', finish) end
for i = first, #ARGV do redis.call('XADD', steps, '*', 'step', ARGV[i]) end
return 1
