"""A worker as a process that stops when it is told to: in time, and with nothing left in its hands."""

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.abc import MetaPathFinder

from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from worker.metrics import PROMPT, exposed
from worker.queue.claims import Queue
from worker.queue.jobs import Jobs
from worker.scoring.consumer import Consumer, worker_name

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between looks whether to stop; the consumer itself stops sooner
HAND_BACK_SECONDS = 2.0  # for Redis to answer; if it does not, the lease runs out


def work(settings: Settings, stopping: threading.Event, *, burst: bool) -> bool:
    """Work until `stopping` is set or, with `burst`, until no step is left to claim.

    After `stopping` is set, the step in hand may take another `shutdown_timeout_seconds`; then it is handed back to the queue.

    Returns:
        Whether the loop has ended. If not, its threads still do what nobody needs any more, and the process is to end at once.

    Raises:
        RedisUnavailable: If there is no Redis.
        ProgramFailed: If something else listens where the metrics are to be had.
    """
    sys.meta_path.insert(0, WithoutPandas())
    with open_redis(settings) as redis, open_redis(settings, PROMPT) as prompt_redis:
        queue = Queue(
            redis,
            worker_name(),
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            keep_seconds=settings.keep_jobs_days * 24 * 3600,
        )
        consumer = Consumer(Jobs(redis), queue, settings, stopping)
        with exposed(consumer.metrics, prompt_redis, settings):
            return run_consumer(
                consumer, burst=burst, grace_seconds=settings.shutdown_timeout_seconds
            )


class WithoutPandas(MetaPathFinder):
    """Has Arrow find no pandas where it is installed: to import it takes a second of the first shard, and memory for nothing."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        """Nothing, but for pandas, which is not looked for anywhere else."""
        if fullname == "pandas":
            raise ModuleNotFoundError("a worker does without pandas", name=fullname)


def run_consumer(consumer: Consumer, *, burst: bool, grace_seconds: float) -> bool:
    """As `work`, with a loop that is there already."""
    threads = ThreadPoolExecutor(
        2, thread_name_prefix="consumer"
    )  # left to itself in the end, so no `with`
    run = threads.submit(consumer.run, burst=burst)
    while not run.done() and not consumer.stopping.is_set():
        wait([run], POLL_SECONDS)
    wait([run], grace_seconds)
    if run.done():
        run.result()  # raises what it has raised
        threads.shutdown()
        return True
    handed_back = threads.submit(consumer.hand_back)
    wait([handed_back], HAND_BACK_SECONDS)
    if not handed_back.done() or handed_back.exception() is not None:
        logger.warning(
            "the step in hand could not be handed back; another worker has it when its lease has run out"
        )
    return False
