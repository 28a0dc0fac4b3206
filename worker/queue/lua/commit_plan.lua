-- Replace the plan by its staged shards, or by the final step if every part exists already.
--
-- ARGV: total, revision, now  records to score, version of the source, seconds since the epoch
--       done, failed          images of existing parts
--       shards, remaining     shards of the plan, and those to score
--       finish                the final step
--       skipped               JSON object: files that are no records, by reason and suffix
local total, revision, now, done, failed, shards, remaining, finish, skipped = unpack(ARGV, 5, 13)
acknowledge()
redis.call('HSET', job, 'total', total, 'revision', revision, 'started', now)
redis.call('HSET', job, 'shards', shards, 'remaining', remaining)
redis.call('HSET', job, 'done', done, 'failed', failed, 'skipped_files', skipped)
redis.call('HSET', kept, name, 'committed')
redis.call('RENAME', kept, fences)
if is_cancelling() then
    redis.call('UNLINK', staged)
    return 1
end
redis.call('HSET', job, 'state', remaining == '0' and 'finishing' or 'running')
if remaining == '0' then redis.call('XADD', staged, '*', 'step', finish) end
redis.call('XGROUP', 'CREATE', staged, group, '0')
redis.call('RENAME', staged, steps)
return 1
