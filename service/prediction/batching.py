"""Adaptive batching in front of one engine.

The policy is greedy: whenever the engine is free, it runs everything that waits, up to `max_batch_size`. There is no timer, so a lone
caller never waits for company, and under load batches form by themselves while the engine is busy. It has a lane for each core: small
networks are computed a fifth faster by two runs of one core each than by one run of both. Another lane begins when what waits is
worth a run of its own. A batch that is full while all are busy is given to their threads at once, and the first to be free goes on
with it without a pause. As long as callers come one at a time, the engine is run where they are answered, without the way to a thread
and back.
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

from loupe.errors import LoupeError, ShuttingDown, TooManyRequests
from loupe.images.spec import Float32Array, UInt8Array
from service.prediction.caller import Caller, caller_gone

logger = logging.getLogger(__name__)

SLICE = 64  # images of one request in a run; engines are as fast with so few, and others wait for no more
WORTH_A_LANE_SECONDS = 0.001  # of work; with less there is more to gain from waiting for company than from a lane of its own
LONELY_RUNS = (
    3  # of one request each, one after the other, after which the next one may be run in place
)
SHORT_RUN_SECONDS = 0.002  # that nobody notices who comes meanwhile


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


@dataclass(slots=True, eq=False)
class _Run:
    """One run of the engine: for whom, over how many images, and what will come of it."""

    batch: list[_Waiting]
    images: int
    outcome: "asyncio.Future[tuple[Float32Array, float, float]]"  # answers, when it began, and how many seconds it took


class Batcher:
    """A bounded queue of images and the loop that empties it.

    Args:
        run: The engine: uint8 `(n, 28, 28)` → float32 `(n, classes)`. Called in as many threads at once as there are lanes.
        classes: Columns that `run` must answer with.
        max_batch_size: Most images in one run.
        max_queued_images: Images that may wait; more are refused.
        lanes: How many runs there may be at once, each on a core of its own.
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
        lanes: int = 1,
        together: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._run = run
        self._classes = classes
        self._max_batch_size = max_batch_size
        self._slice = min(SLICE, max_batch_size)
        self._max_queued_images = max_queued_images
        self._lanes = lanes
        self._together = together
        self._observer = observer
        self._lonely_runs = 0  # up to now, without one of several requests between
        self._seconds_per_image = float("inf")  # of the last run
        self._queue: deque[_Waiting] = deque()
        self._queued = 0  # images in the queue
        self._under_way: list[_Run] = []
        self._admitted = 0  # images of all callers that have no answer yet
        self._turn = asyncio.Event()  # for the loop to look what there is to do
        self._closing = False
        self._threads = ThreadPoolExecutor(max_workers=lanes, thread_name_prefix="engine")
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
            raise ShuttingDown("The service is shutting down. Send the request again.")
        if self._admitted + len(images) > self._max_queued_images:
            raise TooManyRequests(
                f"{self._admitted:,} images are queued, and the limit is {self._max_queued_images:,} "
                "(LOUPE_MAX_QUEUED_IMAGES). Try again in a second.",
                code="overloaded",
            )
        left = caller.seconds_left
        if left <= 0:
            raise caller.too_late()
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
        self._turn.set()
        if self._loop is not None:
            await self._loop
        self._threads.shutdown()

    async def _predict_in_slices(
        self, images: UInt8Array, caller: Caller, waiting: deque[asyncio.Future[Float32Array]]
    ) -> Float32Array:
        answers = [np.empty((0, self._classes), np.float32)]
        for start in range(0, len(images), self._slice):
            if (
                len(waiting) == self._lanes + 1
            ):  # in the queue, so that no lane waits for its next one
                answers.append(await waiting[0])
                waiting.popleft()
                if caller.gone():
                    raise caller_gone()
            waiting.append(self._enqueue(images[start : start + self._slice], caller))
        return np.concatenate([*answers, *[await answer for answer in waiting]])

    def _enqueue(self, images: UInt8Array, caller: Caller) -> asyncio.Future[Float32Array]:
        if self._loop is None:
            self._loop = asyncio.create_task(self._empty_queue(), name="batcher")
        answer: asyncio.Future[Float32Array] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(images, caller, time.monotonic(), answer))
        self._queued += len(images)
        if self._may_begin():
            self._turn.set()
        return answer

    def _may_begin(self) -> bool:
        """Whether there is something to run: anything if no lane has work, enough if some have, a full batch if all have."""
        if not self._under_way:
            return bool(self._queue)
        if len(self._under_way) < self._lanes:
            return (
                self._queued >= self._slice
                or self._queued * self._seconds_per_image >= WORTH_A_LANE_SECONDS
            )
        return len(self._under_way) == self._lanes and self._queued >= self._max_batch_size

    async def _empty_queue(self) -> None:
        while self._queue or self._under_way or not self._closing:
            if self._may_begin():
                batch = self._take_batch()
                if batch:
                    self._begin(batch)
            else:
                self._turn.clear()
                await self._turn.wait()
            for run in [run for run in self._under_way if run.outcome.done()]:
                self._under_way.remove(run)
                self._answer(run)

    def _take_batch(self) -> list[_Waiting]:
        """What waits, oldest first, without those whose time is up or whose callers have gone."""
        batch: list[_Waiting] = []
        size = 0
        while self._queue and size + len(self._queue[0].images) <= self._max_batch_size:
            waiting = self._queue.popleft()
            self._queued -= len(waiting.images)
            if waiting.answer.done():  # the caller's time is up
                continue
            if waiting.caller.gone():
                waiting.answer.set_exception(caller_gone())
                continue
            batch.append(waiting)
            size += len(waiting.images)
            if not self._together:
                break
        return batch

    def _is_lonely(self, batch: list[_Waiting]) -> bool:
        """Whether nobody else has come for a while, and the run is so short that whoever comes now need not mind."""
        images = len(batch[0].images)
        if len(batch) > 1 or self._admitted > images or self._under_way:
            self._lonely_runs = 0
            return False
        self._lonely_runs += 1
        return (
            self._lonely_runs > LONELY_RUNS and images * self._seconds_per_image < SHORT_RUN_SECONDS
        )

    def _begin(self, batch: list[_Waiting]) -> None:
        """Have the engine run a batch."""
        loop = asyncio.get_running_loop()
        images = (
            batch[0].images
            if len(batch) == 1
            else np.concatenate([waiting.images for waiting in batch])
        )
        outcome: asyncio.Future[tuple[Float32Array, float, float]]
        if self._is_lonely(batch):
            outcome = loop.create_future()
            try:
                outcome.set_result(self._timed(images))
            except Exception as error:  # noqa: BLE001 - told where the answer is looked at, as that of the thread
                outcome.set_exception(error)
        else:
            outcome = loop.run_in_executor(self._threads, self._timed, images)
            outcome.add_done_callback(lambda _: self._turn.set())
        self._under_way.append(_Run(batch, len(images), outcome))

    def _timed(self, images: UInt8Array) -> tuple[Float32Array, float, float]:
        begun = time.monotonic()
        answers = self._run(images)
        return answers, begun, time.monotonic() - begun

    def _answer(self, run: _Run) -> None:
        """Give every caller of a run that has ended its own rows."""
        try:
            answers, begun, seconds = run.outcome.result()
            if answers.shape != (run.images, self._classes):
                raise _engine_failed(
                    f"It returned shape {answers.shape} in place of "
                    f"({run.images}, {self._classes}). This is a bug."
                )
        except Exception as error:  # the loop must outlive whatever the engine does
            logger.exception("the engine failed on a batch of %d images", run.images)
            failure = error if isinstance(error, LoupeError) else _engine_failed(str(error))
            for waiting in run.batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(failure)
            return
        self._seconds_per_image = seconds / run.images
        if self._observer is not None:
            self._observer.ran(
                run.images, [begun - waiting.since for waiting in run.batch], seconds
            )
        start = 0
        for waiting in run.batch:
            rows = answers[start : start + len(waiting.images)]
            start += len(waiting.images)
            if not waiting.answer.done():
                waiting.answer.set_result(rows)


def _expire(waiting: deque[asyncio.Future[Float32Array]], caller: Caller) -> None:
    """The time of a caller is up."""
    for answer in waiting:
        if not answer.done():
            answer.set_exception(caller.too_late())


def _abandon(waiting: deque[asyncio.Future[Float32Array]]) -> None:
    """Nobody waits for these answers any more, whatever they are."""
    for answer in waiting:
        if not answer.cancel() and not answer.cancelled():
            answer.exception()  # asyncio would report it as never looked at


def _engine_failed(problem: str) -> LoupeError:
    return LoupeError(f"The engine failed: {problem}", code="engine_failed")
