"""Running trials: split requests between two versions, compare them, and end what goes wrong."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import TYPE_CHECKING

import numpy as np

from loupe.errors import LoupeError
from loupe.images.spec import UInt8Array
from loupe.models import trials
from loupe.models.engines.engine import Outputs
from loupe.models.significance import margin
from loupe.models.trials import Reason, Trial
from service.metrics import Metrics
from service.prediction.caller import Caller

if TYPE_CHECKING:
    from service.prediction.served_models import ServedModel

logger = logging.getLogger(__name__)

COMPARE_SECONDS = 10.0  # for an answer of the other version
MAX_WAITING = 1024  # images that are compared at a time; more are not compared
MIN_COMPARED = 100  # images, before figures count
MAX_FAILURES = 3  # runs of the version on trial
CALLER = "-trial"  # whose share of the queue comparisons take; no key or address


class RunningTrial:
    """A trial in one process. The other version computes the images of answered requests.

    Args:
        trial: The trial.
        production: The version in production.
        candidate: The version on trial.
        metrics: Count the images.

    Attributes:
        ended: Whether this process has ended it.
    """

    def __init__(
        self,
        trial: Trial,
        production: "ServedModel",
        candidate: "ServedModel",
        metrics: Metrics,
    ) -> None:
        self.trial = trial
        self.production = production
        self.candidate = candidate
        self.ended = False
        self._metrics = metrics
        self._compared = self._disagreed = self._failures = 0
        self._waiting = 0  # images
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def slowdown(self) -> float:
        """Engine seconds of the version on trial over those of production; 0 if they are not known.

        Runs of equal numbers of images are compared.
        """
        usual = self.production.statistics.runs
        seconds = expected = 0.0
        for size, runs in self.candidate.statistics.runs.items():
            if size in usual:
                seconds += runs.seconds
                expected += runs.count * usual[size].seconds / usual[size].count
        return seconds / expected if expected else 0.0

    def choose(self) -> "ServedModel":
        """Return the version that answers a request."""
        if self.trial.kind == "shadow" or self.ended or not self._has_turn():
            return self.production
        return self.candidate

    def compare(self, served: "ServedModel", images: UInt8Array, outputs: Outputs) -> None:
        """Compute answered images with the other version in the background.

        Args:
            served: The version that answered.
            images: uint8, shape `(n, *shape)` of the model.
            outputs: Its outputs.
        """
        if self.trial.kind == "canary":
            is_compared = served is self.candidate
        else:
            is_compared = served is self.production and self._has_turn()
        if self.ended or not is_compared:
            return
        if self._waiting + len(images) > MAX_WAITING:
            self._count("skipped", len(images))
            return
        self._waiting += len(images)
        other = self.candidate if served is self.production else self.production
        self._begin(self._compare(other, images, outputs))

    def failed_request(self, served: "ServedModel") -> None:
        """Count a request on which a version failed, if it is the one on trial."""
        if served is self.candidate:
            self._failed(1)

    async def _compare(self, other: "ServedModel", images: UInt8Array, outputs: Outputs) -> None:
        caller = Caller.within(COMPARE_SECONDS, name=CALLER)
        try:
            with other:
                theirs = await other.batcher.predict(images, caller)
        except LoupeError as error:
            if other is self.candidate and error.code == "engine_failed":
                self._failed(len(images))
            else:
                self._count("skipped", len(images))
            return
        finally:
            self._waiting -= len(images)
        best, other_best = (each.probabilities.argmax(axis=1) for each in (outputs, theirs))
        disagreed = int(np.count_nonzero(best != other_best))
        self._count("disagreed", disagreed)
        self._count("agreed", len(images) - disagreed)
        self._compared += len(images)
        self._disagreed += disagreed
        self._judge()

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        """Do something in the background; the event loop itself keeps no task alive."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _has_turn(self) -> bool:
        return random.random() < self.trial.share  # noqa: S311 - no secret

    def _failed(self, images: int) -> None:
        self._count("failed", images)
        self._failures += 1
        self._judge()

    def _count(self, outcome: str, images: int) -> None:
        self._metrics.trial_images[self.trial.name, outcome] += images

    def _judge(self) -> None:
        """End the trial if it goes wrong."""
        reason = self._reason()
        if self.ended or reason is None:
            return
        self.ended = True
        self._metrics.trials_ended[self.trial.name, reason] += 1
        logger.error(
            "the %s of %s ended: %s (%d of %d images disagreed, %d failures, %.1f times as slow)",
            *(self.trial.kind, self.trial.tag, reason),
            *(self._disagreed, self._compared, self._failures, self.slowdown),
        )
        self._begin(asyncio.to_thread(self._save, reason))

    def _reason(self) -> Reason | None:
        if self._failures >= MAX_FAILURES:
            return "failures"
        if self._compared < MIN_COMPARED:
            return None
        share = self._disagreed / self._compared
        if share - margin(share, self._compared) > self.trial.max_disagreement:
            return "disagreement"
        return "slow" if self.slowdown > self.trial.max_slowdown else None

    def _save(self, reason: Reason) -> None:
        try:
            trials.end(self.trial, reason, self._compared, self._disagreed)
        except LoupeError as error:
            logger.error("only this process knows that the trial ended: %s", error)
