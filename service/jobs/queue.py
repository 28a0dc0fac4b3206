"""The client side of the jobs' queue, for an event loop: opened by the first question, asked in threads, and gone without harm."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, TypeVar

from loupe.old_errors.core import RedisUnavailable
from loupe.settings import Settings

if TYPE_CHECKING:
    from worker.queue.jobs import (
        Jobs,  # imports Redis's client, which takes as long as everything else that starts a service
    )

T = TypeVar("T")

THREADS = 4  # a Redis that does not answer holds up these, and nobody who wants a prediction

logger = logging.getLogger(
    "bentoml.loupe.jobs"
)  # below BentoML's logger, so that its handlers apply


class JobQueue:
    """The jobs in the Redis that the settings name, or in an embedded one.

    Args:
        settings: Where it is.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(
            THREADS, thread_name_prefix="jobs"
        )  # none of them is there before it is needed
        self._opening = threading.Lock()
        self._opened: tuple[ExitStack, Jobs] | None = None

    async def ask(self, question: "Callable[[Jobs], T]") -> T:
        """What the jobs answer to a question that may block.

        Raises:
            RedisUnavailable: If Redis does not answer within seconds.
            LoupeError: As the question does.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, question)

    async def close(self) -> None:
        """Leave Redis; an embedded one that nobody else uses stops."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._leave)
        self._threads.shutdown()

    def _ask(self, question: "Callable[[Jobs], T]") -> T:
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import RedisError

        try:
            return question(self._jobs())
        except RedisConnectionError as error:
            self._leave()  # an embedded one may have ended, and is started by whoever asks next
            raise self._unavailable(error) from error
        except (RedisError, RedisUnavailable, OSError) as error:
            raise self._unavailable(error) from error

    def _jobs(self) -> "Jobs":
        from loupe.runtime.redis_server import HASTY, open_redis
        from worker.queue.jobs import Jobs

        with self._opening:
            if self._opened is None:
                stack = ExitStack()
                self._opened = stack, Jobs(stack.enter_context(open_redis(self._settings, HASTY)))
            return self._opened[1]

    def _leave(self) -> None:
        with self._opening:
            if self._opened is not None:
                stack, _ = self._opened
                self._opened = None
                stack.close()

    def _unavailable(self, error: Exception) -> RedisUnavailable:
        """What callers are told; where exactly it should be is the operator's business, and stands in the log."""
        logger.warning("the queue of jobs does not answer: %s", error)
        where = (
            "the address in LOUPE_REDIS_URL"
            if self._settings.redis_url
            else "the service's data folder"
        )
        return RedisUnavailable(
            f"{where}, which keeps the jobs", "no answer; predictions do without it"
        )
