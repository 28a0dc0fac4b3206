-- End the job.
--
-- ARGV: now, keep_seconds  seconds since the epoch, and how long the record is kept
end_job(is_cancelling() and 'cancelled' or 'done', ARGV[5], ARGV[6])
return 1
