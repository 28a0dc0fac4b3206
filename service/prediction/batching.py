"""Adaptive batching in front of one engine.

The policy is greedy and has no timer: a run takes everything that is queued, up to
`max_batch_size`. A run that should take less than `SHORT_RUN_SECONDS` executes on the event loop:
waking a thread would take longer, and batches form from what arrives in the meantime. A request
that is the only one in flight is not even queued. If more images wait than fit into that time, but
at least `FULL_RUN` fit, the run takes only those. Longer runs, and the slices of large requests,
go to one thread per core.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from loupe.errors import LoupeError, ShuttingDown, TooManyRequests
from loupe.images.spec import UInt8Array
from loupe.models.engines.engine import Outputs
from service.http.shares import shared
from service.prediction.caller import Caller, caller_gone

logger = logging.getLogger(__name__)

SLICE = 64  # images of one request per run; larger runs are no faster, and others wait for them
SHORT_RUN_SECONDS = 0.002  # the event loop may block this long
FULL_RUN = 32  # images; a run of more takes as long for each of them
RECENT_RUNS = 8  # the fastest one counts: other programs on the machine only make runs slower


@dataclass(slots=True)
class _Queued:
    """Images of one caller that stay together in one run."""

    images: UInt8Array
    caller: Caller
    is_slice: bool
    since: float  # on the clock of `time.monotonic`
    answer: asyncio.Future[Outputs]


@dataclass(slots=True)
class _Outcome:
    """The result of one run, when it started, and how many seconds it took."""

    answers: Outputs | Exception
    started: float
    seconds: float


class Batcher:
    """A bounded queue in front of one engine.

    Args:
        run: The engine; called in several threads.
        classes: Columns that its probabilities must have.
        max_batch_size: Maximum number of images in one run.
        max_queued_images: Maximum number of images without an answer of one caller; those of all
            callers may be half as many more.
        threads: Maximum number of runs in threads at a time.
        together: Whether requests may share a run.
        on_run: Called after each run with its images, the seconds that each request waited, and
            its duration in seconds.
    """

    def __init__(
        self,
        run: Callable[[UInt8Array], Outputs],
        *,
        classes: int,
        max_batch_size: int,
        max_queued_images: int,
        threads: int = 1,
        together: bool = True,
        on_run: Callable[[int, Sequence[float], float], None] | None = None,
    ) -> None:
        self._run = run
        self._classes = classes
        self._max_batch_size = max_batch_size
        self._slice = min(SLICE, max_batch_size)
        self._threads = threads
        self._together = together
        self._on_run = on_run
        self._recent_seconds: deque[float] = deque(maxlen=RECENT_RUNS)  # per image
        self._seconds_per_image = float("inf")  # an estimate
        self._queue: deque[_Queued] = deque()
        self._queued_images = 0
        self._runs_in_threads = 0
        self._dispatch_is_scheduled = False
        self._admitted = shared(max_queued_images)  # images without an answer
        self._requests = 0
        self._idle = asyncio.Event()
        self._closing = False
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="engine")

    @property
    def admitted(self) -> int:
        """Number of images without an answer."""
        return self._admitted.held

    async def predict(self, images: UInt8Array, caller: Caller) -> Outputs:
        """Return the engine's outputs, computed together with other requests.

        A large request runs in slices, so that others can run in between.

        Args:
            images: uint8, shape `(n, *shape)` of the model; `n` may be 0.
            caller: The client.

        Returns:
            The outputs of the images, in their order.

        Raises:
            CallerGone: If the client has disconnected.
            DeadlineExceeded: If the deadline passes; images not yet running are dropped.
            LoupeError: If the engine fails (`engine_failed`).
            ShuttingDown: If the service is shutting down.
            TooManyRequests: If the queue is full (`overloaded`).
        """
        if self._closing:
            raise ShuttingDown()
        left = caller.seconds_left
        if left <= 0:
            raise caller.too_late()
        limits = self._admitted
        if not limits.has_room(caller.name, len(images)):
            raise TooManyRequests(
                f"{limits.held:,} images are queued, and the limit is {limits.share:,} of yours "
                f"and {limits.total:,} of all (LOUPE_MAX_QUEUED_IMAGES). Try again in a second.",
                code="overloaded",
            )
        if self._can_run_now(images, caller):
            return self._recorded(self._timed_run(images), len(images), [0.0])
        limits.add(caller.name, len(images))
        pending: deque[asyncio.Future[Outputs]] = deque()
        deadline = asyncio.get_running_loop().call_later(left, _expire, pending, caller)
        self._requests += 1
        try:
            if 0 < len(images) <= self._slice:
                pending.append(self._enqueue(images, caller))
                return await pending[0]
            return await self._predict_in_slices(images, caller, pending)
        finally:
            deadline.cancel()
            limits.give_back(caller.name, len(images))
            self._requests -= 1
            if not self._requests:
                self._idle.set()
            _abandon(pending)

    async def close(self) -> None:
        """Refuse new requests, and answer what is queued."""
        self._closing = True
        while self._requests:
            self._idle.clear()
            await self._idle.wait()
        await asyncio.to_thread(self._executor.shutdown)

    async def _predict_in_slices(
        self, images: UInt8Array, caller: Caller, pending: deque[asyncio.Future[Outputs]]
    ) -> Outputs:
        answers = [Outputs.of(np.empty((0, self._classes), np.float32))]
        for start in range(0, len(images), self._slice):
            if len(pending) > self._threads:  # one is queued ahead, so that no thread idles
                answers.append(await pending[0])
                pending.popleft()
                if caller.gone():
                    raise caller_gone()
            part = images[start : start + self._slice]
            pending.append(self._enqueue(part, caller, is_slice=True))
        return Outputs.joined([*answers, *[await answer for answer in pending]])

    def _can_run_now(self, images: UInt8Array, caller: Caller) -> bool:
        """Return whether a run is short, and no other request could share it."""
        fit = min(self._slice, SHORT_RUN_SECONDS / self._seconds_per_image)
        return 0 < len(images) <= fit and not self._queue and caller.alone()

    def _enqueue(
        self, images: UInt8Array, caller: Caller, *, is_slice: bool = False
    ) -> asyncio.Future[Outputs]:
        answer: asyncio.Future[Outputs] = asyncio.get_running_loop().create_future()
        self._queue.append(_Queued(images, caller, is_slice, time.monotonic(), answer))
        self._queued_images += len(images)
        self._schedule_dispatch()
        return answer

    def _schedule_dispatch(self) -> None:
        """Dispatch after the next turn of the event loop.

        Requests that it reads from their connections in that turn share the run.
        """
        if not self._dispatch_is_scheduled:
            self._dispatch_is_scheduled = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._dispatch)

    def _dispatch(self) -> None:
        """Start the runs that can start now."""
        self._dispatch_is_scheduled = False
        while self._queue:
            max_images = self._max_images_on_loop()
            if max_images:
                batch = self._take_batch(max_images)
                if batch:
                    self._finish(batch, self._timed_run(_joined(batch)))
                if self._queue:
                    self._schedule_dispatch()  # after the event loop has sent the answers
                return
            ahead = self._queue[0].is_slice  # a thread that is done has the next one immediately
            if self._runs_in_threads >= self._threads + ahead:
                return
            batch = self._take_batch(self._max_batch_size)
            if batch:
                self._runs_in_threads += 1
                running = asyncio.get_running_loop().run_in_executor(
                    self._executor, self._timed_run, _joined(batch)
                )
                running.add_done_callback(partial(self._finish_in_thread, batch))

    def _max_images_on_loop(self) -> int:
        """Return how many images the next run on the event loop may take; 0: use a thread."""
        first = self._queue[0]
        fit = int(SHORT_RUN_SECONDS / self._seconds_per_image)
        waiting = self._queued_images if self._together else len(first.images)
        enough = min(waiting, self._max_batch_size, max(FULL_RUN, len(first.images)))
        return 0 if first.is_slice or fit < enough else min(fit, self._max_batch_size)

    def _take_batch(self, max_images: int) -> list[_Queued]:
        """Remove the oldest requests from the queue, without the abandoned ones."""
        batch: list[_Queued] = []
        size = 0
        while self._queue and size + len(self._queue[0].images) <= max_images:
            queued = self._queue.popleft()
            self._queued_images -= len(queued.images)
            if queued.answer.done():  # the deadline has passed
                continue
            if queued.caller.gone():
                queued.answer.set_exception(caller_gone())
                continue
            batch.append(queued)
            size += len(queued.images)
            if not self._together:
                break
        return batch

    def _timed_run(self, images: UInt8Array) -> _Outcome:
        started = time.monotonic()
        answers: Outputs | Exception
        try:
            answers = self._run(images)
            shape, expected = answers.probabilities.shape, (len(images), self._classes)
            if shape != expected:
                problem = f"The engine returned shape {shape}, not {expected}."
                answers = LoupeError(f"{problem} This is a bug.", code="engine_failed")
        except Exception as error:  # noqa: BLE001 - every caller of the batch gets it
            answers = error
        return _Outcome(answers, started, time.monotonic() - started)

    def _finish_in_thread(self, batch: list[_Queued], run: asyncio.Future[_Outcome]) -> None:
        self._runs_in_threads -= 1
        self._finish(batch, run.result())
        self._dispatch()

    def _finish(self, batch: list[_Queued], outcome: _Outcome) -> None:
        """Give every caller its outputs, or the engine's error."""
        images = sum(len(queued.images) for queued in batch)
        waited = [outcome.started - queued.since for queued in batch]
        try:
            answers = self._recorded(outcome, images, waited)
        except LoupeError as error:
            for queued in batch:
                if not queued.answer.done():
                    queued.answer.set_exception(error)
            return
        start = 0
        for queued in batch:
            stop = start + len(queued.images)
            if not queued.answer.done():
                queued.answer.set_result(answers.part(start, stop))
            start = stop

    def _recorded(self, outcome: _Outcome, images: int, waited: Sequence[float]) -> Outputs:
        """Return the answers of a run, and record how long it took.

        Raises:
            LoupeError: If the engine has failed.
        """
        if isinstance(outcome.answers, Exception):
            error = outcome.answers
            logger.error("the engine failed on a batch of %d images", images, exc_info=error)
            if isinstance(error, LoupeError):
                raise error
            raise LoupeError(f"The engine failed: {error}", code="engine_failed")
        self._recent_seconds.append(outcome.seconds / images)
        self._seconds_per_image = min(self._recent_seconds)
        if self._on_run is not None:
            self._on_run(images, waited, outcome.seconds)
        return outcome.answers


def _joined(batch: list[_Queued]) -> UInt8Array:
    if len(batch) == 1:
        return batch[0].images
    return np.concatenate([queued.images for queued in batch])


def _expire(pending: deque[asyncio.Future[Outputs]], caller: Caller) -> None:
    """End a request whose deadline has passed."""
    for answer in pending:
        if not answer.done():
            answer.set_exception(caller.too_late())


def _abandon(pending: deque[asyncio.Future[Outputs]]) -> None:
    """Cancel unused answers, and read their errors, which asyncio would report."""
    for answer in pending:
        if not answer.cancel() and not answer.cancelled():
            answer.exception()
