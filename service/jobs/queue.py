"""The client side of the job queue, for an event loop."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from loupe.errors import RedisUnavailable
from loupe.settings import Settings
from service.jobs.retention import delete_old, has_old_folder
from service.jobs.transfers import TransferLimits

if TYPE_CHECKING:
    from prometheus_client import Metric

    from worker.queue.jobs import Jobs  # imports redis, which doubles the start of a service

T = TypeVar("T")

THREADS = 4  # a Redis that hangs blocks these, and no prediction
DEPTH_SECONDS = 5.0  # timeout for the queue's metrics; Prometheus waits 10 s for all of them

logger = logging.getLogger(__name__)


class JobQueue:
    """The jobs in Redis; the connection opens with the first operation.

    Args:
        settings: The address of Redis; without one, an embedded Redis starts.

    Attributes:
        limits: Transfers of jobs at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.limits = TransferLimits(settings.processes)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="jobs")
        self._opening = threading.Lock()
        self._closing = threading.Event()
        self._opened: tuple[ExitStack, Jobs] | None = None

    async def ask(self, operation: "Callable[[Jobs], T]") -> T:
        """Run a blocking operation on the jobs in a thread.

        Raises:
            RedisUnavailable: If Redis does not answer within seconds.
            LoupeError: As the operation does.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, operation)

    async def metrics(self) -> "list[Metric]":
        """Return the metrics of the queue, which say so if Redis does not answer.

        There are none without an address of Redis: a scrape starts no embedded one.
        """
        if not self._settings.redis_url:
            return []
        from worker.queue.depth import depth_metrics

        try:
            async with asyncio.timeout(DEPTH_SECONDS):
                depth = await self.ask(lambda jobs: jobs.depth())
        except (RedisUnavailable, TimeoutError):
            return list(depth_metrics(None))
        return list(depth_metrics(depth))

    async def delete_old(self) -> int:
        """Delete jobs that ended long ago, with uploads and results; return how many.

        Raises:
            RedisUnavailable: If Redis does not answer within seconds.
        """
        home, days = self._settings.home, self._settings.keep_results_days
        if days is None or not await asyncio.to_thread(has_old_folder, home, days):
            return 0
        is_stopping = self._closing.is_set
        return await self.ask(lambda jobs: delete_old(home, days, jobs, is_stopping))

    async def close(self) -> None:
        """Disconnect; an embedded Redis stops unless others use it."""
        self._closing.set()
        await asyncio.get_running_loop().run_in_executor(self._threads, self._disconnect)
        self._threads.shutdown()

    def _ask(self, operation: "Callable[[Jobs], T]") -> T:
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import RedisError, ResponseError

        from loupe.runtime.redis_server import redis_unavailable

        try:
            return operation(self._jobs())
        except (RedisError, RedisUnavailable, OSError) as error:
            if isinstance(error, RedisConnectionError):
                self._disconnect()  # an embedded Redis may have died; the next operation starts one
            # The address is for operators: callers get no more than the name of the setting.
            logger.warning("The job queue does not answer: %s", error)
            if isinstance(error, ResponseError):
                raise redis_unavailable(error) from error
            is_remote = bool(self._settings.redis_url)
            where = "at LOUPE_REDIS_URL" if is_remote else "in the service's data folder"
            raise RedisUnavailable(
                f"The job queue, a Redis {where}, does not answer. Predictions still work."
            ) from error

    def _jobs(self) -> "Jobs":
        from loupe.runtime.redis_server import HASTY, open_redis
        from worker.queue.checks import check_redis
        from worker.queue.jobs import Jobs

        with self._opening:
            if self._opened is None:
                with ExitStack() as stack:
                    redis = stack.enter_context(open_redis(self._settings, HASTY))
                    check_redis(redis)
                    self._opened = stack.pop_all(), Jobs(redis, self._settings.keep_jobs_seconds)
            return self._opened[1]

    def _disconnect(self) -> None:
        with self._opening:
            if self._opened is not None:
                stack, _ = self._opened
                self._opened = None
                stack.close()
