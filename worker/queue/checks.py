"""Checks of the queue's Redis at the start of a program: rights, eviction and persistence."""

import logging

from redis import Redis

from loupe.errors import RedisUnavailable
from loupe.runtime.redis_risks import find_risks
from worker.queue.keys import job_keys, load_script

logger = logging.getLogger(__name__)

SCRATCH = "check"  # in place of a job's id


def check_redis(redis: Redis) -> None:
    """Check the user's rights, and log a warning for each risk to lose jobs.

    Raises:
        RedisUnavailable: If the user may not run all commands, which the message lists.
    """
    missing = load_script(redis, "check_rights")(keys=job_keys(SCRATCH))
    if missing:
        raise RedisUnavailable(
            f"The user of the job queue's Redis may not run {', '.join(missing)}. "
            "docs/scaling.md has the rule with all rights."
        )
    for risk in find_risks(redis):
        logger.warning("%s", risk)
