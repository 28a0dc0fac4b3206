"""Adaptive batching in front of one engine.

The policy is greedy: whenever the engine is free, it runs everything that waits, up to `max_batch_size`. There is no timer, so a lone
caller never waits for company, and under load batches form by themselves while the engine is busy.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from loupe.errors import DeadlineExceeded, EngineFailed, LoupeError, Overloaded, ShuttingDown
from loupe.images import Float32Array, UInt8Array

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    """Images of one caller, all in one run of the engine."""

    images: UInt8Array
    deadline: float  # on the clock of time.monotonic
    answer: asyncio.Future[Float32Array]


class Batcher:
    """A bounded queue of images and the loop that empties it.

    Args:
        run: The engine: uint8 `(n, 28, 28)` → float32 `(n, classes)`. Called in one thread, never twice at once.
        classes: Columns that `run` must answer with.
        max_batch_size: Most images in one run.
        max_queued_images: Images that may wait; more are refused.
        timeout_seconds: How long images may wait for the engine; late ones are dropped before they are computed.
        observe_batch: Called with the number of images of every run.
    """

    def __init__(
        self,
        run: Callable[[UInt8Array], Float32Array],
        *,
        classes: int,
        max_batch_size: int,
        max_queued_images: int,
        timeout_seconds: float,
        observe_batch: Callable[[int], None] = lambda images: None,
    ) -> None:
        self._run = run
        self._classes = classes
        self._max_batch_size = max_batch_size
        self._max_queued_images = max_queued_images
        self._timeout_seconds = timeout_seconds
        self._observe_batch = observe_batch
        self._queue: deque[_Waiting] = deque()
        self._admitted = 0  # images of all callers that have no answer yet
        self._arrival = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._loop: asyncio.Task[None] | None = None

    async def predict(self, images: UInt8Array) -> Float32Array:
        """Class probabilities, computed together with whatever else waits.

        A request larger than `max_batch_size` goes through in slices, one after the other, so that others come in between.

        Args:
            images: uint8, shape `(n, 28, 28)`; `n` may be 0.

        Returns:
            float32, shape `(n, classes)`, row by row the answers to `images`.

        Raises:
            Overloaded: If too many images wait already.
            DeadlineExceeded: If the engine was not free in time.
            EngineFailed: If the engine raised or answered with another shape.
            ShuttingDown: If the service stops.
        """
        if self._closing:
            raise ShuttingDown
        if self._admitted + len(images) > self._max_queued_images:
            raise Overloaded(self._admitted, self._max_queued_images)
        deadline = time.monotonic() + self._timeout_seconds
        self._admitted += len(images)
        try:
            if 0 < len(images) <= self._max_batch_size:
                return await self._enqueue(images, deadline)
            answers = [np.empty((0, self._classes), np.float32)]
            for start in range(0, len(images), self._max_batch_size):
                answers.append(await self._enqueue(images[start : start + self._max_batch_size], deadline))
            return np.concatenate(answers)
        finally:
            self._admitted -= len(images)

    async def close(self) -> None:
        """Answer what waits, refuse what comes, and end the loop."""
        self._closing = True
        self._arrival.set()
        if self._loop is not None:
            await self._loop
        self._thread.shutdown()

    def _enqueue(self, images: UInt8Array, deadline: float) -> asyncio.Future[Float32Array]:
        if self._loop is None:
            self._loop = asyncio.create_task(self._empty_queue(), name="batcher")
        answer: asyncio.Future[Float32Array] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(images, deadline, answer))
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
        """What waits, oldest first, without those whose callers have gone or whose time is up."""
        now = time.monotonic()
        batch: list[_Waiting] = []
        size = 0
        while self._queue and size + len(self._queue[0].images) <= self._max_batch_size:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                continue
            if waiting.deadline < now:
                waiting.answer.set_exception(DeadlineExceeded(self._timeout_seconds))
                continue
            batch.append(waiting)
            size += len(waiting.images)
        return batch

    async def _answer(self, batch: list[_Waiting]) -> None:
        """Run the engine once and give every caller its own rows."""
        images = batch[0].images if len(batch) == 1 else np.concatenate([waiting.images for waiting in batch])
        self._observe_batch(len(images))
        try:
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
        start = 0
        for waiting in batch:
            rows = answers[start : start + len(waiting.images)]
            start += len(waiting.images)
            if not waiting.answer.done():
                waiting.answer.set_result(rows)
