-- Stage a slice of a plan. `commit_plan` puts all slices into the queue at once.
--
-- ARGV: is_first  '1' for the first slice: what an earlier attempt has staged is deleted
--       finished  JSON list: names of shards whose parts exist
--       …         shards to score
local is_first, finished = ARGV[5], cjson.decode(ARGV[6])
if is_first == '1' then redis.call('UNLINK', staged, kept) end
for _, shard in ipairs(finished) do redis.call('HSET', kept, shard, 'committed') end
for i = 7, #ARGV do redis.call('XADD', staged, '*', 'step', ARGV[i]) end
return 1
