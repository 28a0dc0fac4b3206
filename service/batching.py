"""Adaptive batching in front of one engine.

The policy is greedy: whenever the engine is free, it runs everything that waits, up to `max_batch_size`. There is no timer, so a lone
caller never waits for company, and under load batches form by themselves while the engine is busy. As long as callers come one at a
time, the engine is run where they are answered, without the way to its thread and back.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from loupe.errors import CallerGone, DeadlineExceeded, EngineFailed, LoupeError, Overloaded, ShuttingDown
from loupe.images import Float32Array, UInt8Array

logger = logging.getLogger(__name__)

SLICE = 64  # images of one request in a run; engines are as fast with so few, and others wait for no more
SLICES_AHEAD = 2  # of one request in the queue, so that the engine never waits for its next one
LONELY_RUNS = 3  # of one request each, one after the other, after which the next one may be run in place
SHORT_RUN_SECONDS = 0.002  # that nobody notices who comes meanwhile


def _stays() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who waits for an answer.

    Attributes:
        timeout_seconds: From its beginning on, how long the request may take.
        deadline: When that is over, on the clock of `time.monotonic`.
        gone: Tells whether nobody waits any more.
    """

    timeout_seconds: float
    deadline: float
    gone: Callable[[], bool] = _stays

    @classmethod
    def within(cls, timeout_seconds: float, gone: Callable[[], bool] = _stays) -> "Caller":
        """A caller whose time begins now."""
        return cls(timeout_seconds, time.monotonic() + timeout_seconds, gone)


class Observer(Protocol):
    """Who is told what the engine did."""

    def ran(self, images: int, waited: Sequence[float], seconds: float) -> None:
        """One run: how many images, how long each request had waited for it, how long it took."""


@dataclass(slots=True)
class _Waiting:
    """Images of one caller, all in one run of the engine."""

    images: UInt8Array
    caller: Caller
    since: float  # on the clock of time.monotonic
    answer: asyncio.Future[Float32Array]


class Batcher:
    """A bounded queue of images and the loop that empties it.

    Args:
        run: The engine: uint8 `(n, 28, 28)` → float32 `(n, classes)`. Called in one thread, never twice at once.
        classes: Columns that `run` must answer with.
        max_batch_size: Most images in one run.
        max_queued_images: Images that may wait; more are refused.
        together: Whether requests may share a run.
        observer: Is told of every run.
    """

    def __init__(
        self,
        run: Callable[[UInt8Array], Float32Array],
        *,
        classes: int,
        max_batch_size: int,
        max_queued_images: int,
        together: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._run = run
        self._classes = classes
        self._max_batch_size = max_batch_size
        self._slice = min(SLICE, max_batch_size)
        self._max_queued_images = max_queued_images
        self._together = together
        self._observer = observer
        self._lonely_runs = 0  # up to now, without one of several requests between
        self._seconds_per_image = float("inf")  # of the last run
        self._queue: deque[_Waiting] = deque()
        self._admitted = 0  # images of all callers that have no answer yet
        self._arrival = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._loop: asyncio.Task[None] | None = None

    @property
    def admitted(self) -> int:
        """Images that have no answer yet."""
        return self._admitted

    async def predict(self, images: UInt8Array, caller: Caller) -> Float32Array:
        """Class probabilities, computed together with whatever else waits.

        The images of a large request go through in slices, so that others come in between.

        Args:
            images: uint8, shape `(n, 28, 28)`; `n` may be 0.
            caller: Who waits for the answer.

        Returns:
            float32, shape `(n, classes)`, row by row the answers to `images`.

        Raises:
            Overloaded: If too many images wait already.
            DeadlineExceeded: If the caller's time is over; images that the engine has not begun with are not computed.
            CallerGone: If nobody waits any more.
            EngineFailed: If the engine raised or answered with another shape.
            ShuttingDown: If the service stops.
        """
        if self._closing:
            raise ShuttingDown
        if self._admitted + len(images) > self._max_queued_images:
            raise Overloaded(self._admitted, self._max_queued_images)
        left = caller.deadline - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(caller.timeout_seconds)
        waiting: deque[asyncio.Future[Float32Array]] = deque()
        alarm = asyncio.get_running_loop().call_later(left, _expire, waiting, caller)
        self._admitted += len(images)
        try:
            if 0 < len(images) <= self._slice:
                waiting.append(self._enqueue(images, caller))
                return await waiting[0]
            return await self._predict_in_slices(images, caller, waiting)
        finally:
            alarm.cancel()
            self._admitted -= len(images)
            _abandon(waiting)

    async def close(self) -> None:
        """Answer what waits, refuse what comes, and end the loop."""
        self._closing = True
        self._arrival.set()
        if self._loop is not None:
            await self._loop
        self._thread.shutdown()

    async def _predict_in_slices(
        self, images: UInt8Array, caller: Caller, waiting: deque[asyncio.Future[Float32Array]]
    ) -> Float32Array:
        answers = [np.empty((0, self._classes), np.float32)]
        for start in range(0, len(images), self._slice):
            if len(waiting) == SLICES_AHEAD:
                answers.append(await waiting[0])
                waiting.popleft()
                if caller.gone():
                    raise CallerGone
            waiting.append(self._enqueue(images[start : start + self._slice], caller))
        return np.concatenate([*answers, *[await answer for answer in waiting]])

    def _enqueue(self, images: UInt8Array, caller: Caller) -> asyncio.Future[Float32Array]:
        if self._loop is None:
            self._loop = asyncio.create_task(self._empty_queue(), name="batcher")
        answer: asyncio.Future[Float32Array] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(images, caller, time.monotonic(), answer))
        self._arrival.set()
        return answer

    async def _empty_queue(self) -> None:
        while self._queue or not self._closing:
            if not self._queue:
                self._arrival.clear()
                await self._arrival.wait()
                continue
            batch = self._take_batch()
            if batch:
                await self._answer(batch)

    def _take_batch(self) -> list[_Waiting]:
        """What waits, oldest first, without those whose time is up or whose callers have gone."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and size + len(self._queue[0].images) <= self._max_batch_size:
            waiting = self._queue.popleft()
            if waiting.answer.done():  # the caller's time is up
                continue
            if waiting.caller.gone():
                waiting.answer.set_exception(CallerGone())
                continue
            batch.append(waiting)
            size += len(waiting.images)
            if not self._together:
                break
        return batch

    def _is_lonely(self, batch: list[_Waiting]) -> bool:
        """Whether nobody else has come for a while, and the run is so short that whoever comes now need not mind."""
        images = len(batch[0].images)
        if len(batch) > 1 or self._admitted > images:
            self._lonely_runs = 0
            return False
        self._lonely_runs += 1
        return self._lonely_runs > LONELY_RUNS and images * self._seconds_per_image < SHORT_RUN_SECONDS

    async def _answer(self, batch: list[_Waiting]) -> None:
        """Run the engine once and give every caller its own rows."""
        images = batch[0].images if len(batch) == 1 else np.concatenate([waiting.images for waiting in batch])
        started = time.monotonic()
        try:
            if self._is_lonely(batch):
                answers = self._run(images)
            else:
                answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._run, images)
            if answers.shape != (len(images), self._classes):
                raise EngineFailed(
                    f"Expected {len(images)} rows of {self._classes} probabilities from the engine. "
                    f"Received: shape {answers.shape}. This is a bug."
                )
        except Exception as error:  # the loop must outlive whatever the engine does
            logger.exception("the engine failed on a batch of %d images", len(images))
            failure = error if isinstance(error, LoupeError) else EngineFailed(f"The engine failed: {error}")
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(failure)
            return
        seconds = time.monotonic() - started
        self._seconds_per_image = seconds / len(images)
        if self._observer is not None:
            self._observer.ran(len(images), [started - waiting.since for waiting in batch], seconds)
        start = 0
        for waiting in batch:
            rows = answers[start : start + len(waiting.images)]
            start += len(waiting.images)
            if not waiting.answer.done():
                waiting.answer.set_result(rows)


def _expire(waiting: deque[asyncio.Future[Float32Array]], caller: Caller) -> None:
    """The time of a caller is up."""
    for answer in waiting:
        if not answer.done():
            answer.set_exception(DeadlineExceeded(caller.timeout_seconds))


def _abandon(waiting: deque[asyncio.Future[Float32Array]]) -> None:
    """Nobody waits for these answers any more, whatever they are."""
    for answer in waiting:
        if not answer.cancel() and not answer.cancelled():
            answer.exception()  # asyncio would report it as never looked at
