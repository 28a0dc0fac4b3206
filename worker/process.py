"""A worker process that stops in time and releases the steps it could not finish."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from worker.metrics import PROMPT, serve_metrics
from worker.queue.checks import check_redis
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.local import LocalQueue
from worker.queue.records import JobRequest
from worker.scoring.consumer import Consumer, worker_name

Q = TypeVar("Q", bound=LocalQueue)

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between checks of `stopping`; the consumer itself stops sooner
SUCCESSOR_SECONDS = 5.0  # of work before the restart
RELEASE_SECONDS = 2.0  # for Redis to answer; if it does not, the lease expires


def work(settings: Settings, stopping: threading.Event, *, burst: bool) -> bool:
    """Work until `stopping` is set or, with `burst`, until no step is left to claim.

    After `stopping` is set, steps in flight may take another `shutdown_timeout_seconds`; then they
    return to the queue.

    Returns:
        Whether the loop has ended. If not, its threads still do unneeded work, after the stop or
        because a step has not noticed that its job was cancelled. The process should exit without
        waiting for them.

    Raises:
        RedisUnavailable: If Redis does not answer, or its user lacks rights.
        ProgramFailed: If the port for metrics is taken.
    """
    with open_redis(settings) as redis, open_redis(settings, PROMPT) as prompt_redis:
        check_redis(redis)
        claims = Claims(
            redis,
            worker_name(),
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
            keep_seconds=settings.keep_jobs_seconds,
        )
        consumer = Consumer(Jobs(redis), claims, settings, stopping)
        grace_seconds = settings.shutdown_timeout_seconds
        with serve_metrics(consumer.metrics, prompt_redis, settings):
            if run_consumer(consumer, burst=burst, grace_seconds=grace_seconds):
                return True
            if not stopping.is_set():  # other jobs do not wait for the restart
                successor = Consumer(Jobs(redis), claims, settings, stopping)
                run_consumer(
                    successor,
                    burst=True,
                    grace_seconds=grace_seconds,
                    max_seconds=SUCCESSOR_SECONDS,
                )
            return False


def run_consumer(
    consumer: Consumer,
    *,
    burst: bool,
    grace_seconds: float = 0.0,
    max_seconds: float = threading.TIMEOUT_MAX,
) -> bool:
    """Run a consumer for at most `max_seconds`, and then its steps in flight; see `work`."""
    # No `with`: the threads are abandoned if they do not end in time.
    threads = ThreadPoolExecutor(2, thread_name_prefix="consumer")
    run = threads.submit(consumer.run, burst=burst)
    deadline = time.monotonic() + max_seconds
    while not run.done() and not consumer.stopping.is_set() and not consumer.is_stuck:
        wait([run], POLL_SECONDS)
        consumer.closing = consumer.closing or time.monotonic() > deadline
    if consumer.stopping.is_set():
        wait([run], grace_seconds)
    if run.done():
        run.result()
        threads.shutdown()
        return True
    released = threads.submit(consumer.release)
    wait([released], RELEASE_SECONDS)
    if not released.done() or released.exception() is not None:
        logger.warning("could not release the steps in flight; their leases will expire")
    return False


@contextmanager
def running_locally(
    settings: Settings, request: JobRequest, max_errors: str | None = None
) -> Iterator[LocalQueue]:
    """Run one job without Redis while the block runs, and wait for its end."""
    queue = LocalQueue(request, settings.max_attempts, max_errors=max_errors)
    with running_queue(settings, queue):
        yield queue


@contextmanager
def running_queue(settings: Settings, queue: Q) -> Iterator[Q]:
    """Run the steps of a queue while the block runs, and wait for their end."""
    with ThreadPoolExecutor(1, thread_name_prefix="local") as threads:
        run = threads.submit(run_consumer, Consumer(queue, queue, settings), burst=True)
        yield queue
        queue.abandoned = not run.result()
