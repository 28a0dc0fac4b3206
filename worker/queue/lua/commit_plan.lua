-- Replace the plan by its staged shards, or by the final step if every part exists already. If too
-- many images of existing parts are errors, the job fails.
--
-- ARGV: total, revision, now  records to score, version of the source, seconds since the epoch
--       done, failed          images of existing parts
--       shards, remaining     shards of the plan, and those to score
--       finish                the final step
--       skipped               JSON object: files that are no records, by reason and suffix
--       max_failed            images of the job that may be errors; less than 0 for no limit
--       error, keep_seconds   why it fails then, and how long the records are kept
local total, revision, now, done, failed, shards, remaining, finish, skipped = unpack(ARGV, 5, 13)
local max_failed, error, keep_seconds = unpack(ARGV, 14, 16)
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
if tonumber(max_failed) >= 0 and tonumber(failed) > tonumber(max_failed) then
    redis.call('UNLINK', staged)
    redis.call('HSET', job, 'error', error)
    end_job('failed', now, keep_seconds)
    return 1
end
redis.call('HSET', job, 'state', remaining == '0' and 'finishing' or 'running')
if remaining == '0' then redis.call('XADD', staged, '*', 'step', finish) end
redis.call('XGROUP', 'CREATE', staged, group, '0')
redis.call('RENAME', staged, steps)
return 1
