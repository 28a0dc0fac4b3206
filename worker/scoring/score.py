"""The main steps: score a shard and write its part, or probe some of its records."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np

from loupe.images.spec import UInt8Array
from worker.metrics import ShardClock
from worker.queue.steps import Probe, Shard
from worker.results import outputs, receipts
from worker.results.statistics import StepStatistics
from worker.scoring import bisection
from worker.scoring import task as tasks
from worker.scoring.failures import blame_records
from worker.scoring.task import Task

SAMPLED_BATCHES = 32  # batches per sampling pass; sampling each batch cost 10 % of the run


@dataclass(frozen=True)
class ShardResult:
    """A part that is written.

    Attributes:
        done: Images scored.
        codes: Codes of the records that could not be read.
        clock: Where the time went.
    """

    done: int
    codes: list[str]
    clock: ShardClock


class ShardRun:
    """One attempt at a shard.

    `start` returns when the last batch is queued for the scoring threads. The next shard can start
    then, while `complete` collects the last results and writes the part.
    """

    def __init__(self, task: Task, shard: Shard) -> None:
        self._task = task
        self._shard = shard
        self._clock = ShardClock()
        self._statistics = StepStatistics([task.resources.worker])
        self._random = np.random.default_rng(shard.index)
        self._queued: deque[Future[tuple[outputs.Part, UInt8Array]]] = deque()
        self._parts: list[outputs.Part] = []
        self._unsampled: list[tuple[outputs.Part, UInt8Array]] = []

    def start(self) -> None:
        """Queue all batches, and collect results so that few of them are in memory."""
        self._model, engine = self._task.load_model()
        work = partial(tasks.score_batch, engine, self._clock)
        with self._cancelling_on_error():
            source = self._task.open_source(self._model)
            index = self._task.find_index(source)
            self._types = source.column_types(index)
            spec = self._model.card.input
            for batch in self._task.batches(self._shard, source, index, spec):
                if self._task.lease.lost:
                    break
                if len(self._queued) == self._task.resources.max_ahead:
                    self._collect()
                self._queued.append(self._task.resources.pool.submit(work, batch))

    def complete(self) -> ShardResult | None:
        """Write the part and its receipt; return `None` if the lease is lost."""
        lease, output, job = self._task.lease, self._task.output, self._task.job
        with self._cancelling_on_error():
            while self._queued and not lease.lost:
                self._collect()
        if lease.lost:
            self._cancel()
            return None
        self._sample()
        names = self._model.card.class_names
        part = outputs.concatenate(self._parts, len(names))
        with self._clock.phase("write"):
            files = outputs.write_part(
                output, self._shard.index, job.shards, part, names, job.options, self._types
            )
        self._statistics.seconds = dict(self._clock.seconds)
        receipts.write_receipt(
            output,
            self._shard.index,
            job.shards,
            files,
            fingerprint=job.request.fingerprint(job.revision),
            done=len(part.ids),
            failed=len(part.errors),
            figures=self._statistics,
        )
        return ShardResult(len(part.ids), [error.code for _, error in part.errors], self._clock)

    def _collect(self) -> None:
        try:
            part, images = self._queued.popleft().result()
        except CancelledError:  # the lease is lost
            return
        part = replace(part, blank=self._model.card.input.blank(images))
        self._parts.append(part)
        self._unsampled.append((part, images))
        if len(self._unsampled) == SAMPLED_BATCHES:
            self._sample()
        self._task.lease.scored += len(part.ids)

    def _sample(self) -> None:
        """Add images to the statistics, for the sheets in the summary."""
        if not self._unsampled:
            return
        parts, images = zip(*self._unsampled, strict=True)
        whole = outputs.concatenate(parts, parts[0].probabilities.shape[1])
        self._statistics.add_images(
            whole.ids, np.concatenate(images), whole.probabilities, self._random
        )
        self._unsampled.clear()

    @contextmanager
    def _cancelling_on_error(self) -> Iterator[None]:
        try:
            with blame_records():
                yield
        except BaseException:
            self._cancel()
            raise

    def _cancel(self) -> None:
        while self._queued:
            self._queued.popleft().cancel()


def probe_records(task: Task, probe: Probe) -> Shard | Probe | None:
    """Return the step that follows if all records are scored; `None` if the lease is lost."""
    model, engine = task.load_model()
    first, stop = bisection.probed(probe)
    with blame_records():
        source = task.open_source(model)
        index = task.find_index(source)
        spec = model.card.input
        batches = task.batches(probe.shard, source, index, spec, one_by_one=True)
        for batch in islice(batches, first, stop):
            if task.lease.lost:
                return None
            try:
                tasks.score_batch(engine, ShardClock(), batch)
            except CancelledError:
                return None
    return None if task.lease.lost else bisection.after_success(probe)
