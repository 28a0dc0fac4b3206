-- Acknowledge a step of a cancelled job without doing it. Return 0 if the job is not cancelled.
if not is_cancelling() then return 0 end
acknowledge()
return 1
