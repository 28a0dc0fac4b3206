"""A step in progress, and what the steps of one process share."""

import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from loupe.errors import LoupeError
from loupe.files import ReadableFolders
from loupe.images.pool import DecoderPool, Loss
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.engines.engine import Engine, run_size
from loupe.models.store import StoredModel
from loupe.runtime.cores import available_cores
from loupe.settings import Settings
from worker.metrics import ShardClock
from worker.queue.records import Job
from worker.queue.steps import Shard
from worker.remote_path import RemotePath
from worker.results import outputs
from worker.scoring.engines import Engines, find_stored
from worker.scoring.lease import Lease
from worker.sources.checks import check_unchanged
from worker.sources.opening import open_source
from worker.sources.source import BatchReader, ImageSource, Records
from worker.storage import AnyPath, parse_path

BATCH_SIZE = 128  # images that a thread reads and scores at a time; they fit in its cache
BATCHES_AHEAD = 2  # per thread; more take memory and are not faster
MAX_COPIES = 8  # of plan indexes of jobs that take turns; others are copied again


class Resources:
    """Threads, models and plan indexes that the steps of one process share.

    Each thread reads and scores whole batches with an engine in one thread: threads of one engine
    would wait for each other in every layer.
    """

    def __init__(
        self,
        settings: Settings,
        worker: str,
        on_loss: Callable[[Loss], object] = lambda _: None,
    ) -> None:
        # PyArrow imports pandas with its first array, where it is installed. Two threads must not.
        pa.array([0])
        threads = settings.threads or available_cores()
        self.settings = settings
        self.worker = worker
        self.max_ahead = BATCHES_AHEAD * threads
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="score")
        self.decoders = DecoderPool(threads, settings.decode_seconds, on_loss=on_loss)
        self.engines = Engines(settings.engine)
        self.plan_indexes = PlanIndexes()

    def close(self) -> None:
        """Stop threads and decoders, and delete copied plan indexes."""
        self.pool.shutdown()
        self.decoders.close()
        self.plan_indexes.close()


class PlanIndexes:
    """Local copies of plan indexes that are kept in a bucket."""

    def __init__(self) -> None:
        self._copies: dict[AnyPath, tempfile.TemporaryDirectory[str]] = {}

    def local(self, index: AnyPath) -> Path:
        """Return the index itself if it is local, else a copy."""
        if isinstance(index, Path):
            return index
        copy = self._copies.pop(index, None) or _copy(index)
        self._copies[index] = copy  # the last one is the most recently used
        self._evict(MAX_COPIES)
        return Path(copy.name)

    def close(self) -> None:
        """Delete all copies."""
        self._evict(0)

    def _evict(self, max_copies: int) -> None:
        while len(self._copies) > max_copies:
            self._copies.pop(next(iter(self._copies))).cleanup()


def _copy(index: RemotePath) -> "tempfile.TemporaryDirectory[str]":
    """Return a local copy, which is deleted with the object that names it."""
    copy = tempfile.TemporaryDirectory(prefix="loupe-index-")
    for file in index.iterdir():
        file.download(Path(copy.name) / file.name)
    return copy


@dataclass
class Task:
    """The inputs of a step's handler.

    Attributes:
        job: The job as the step was claimed.
        lease: The claim on the step, with its progress.
        resources: Those of the process.
    """

    job: Job
    lease: Lease
    resources: Resources

    @property
    def output(self) -> AnyPath:
        """Folder of the results."""
        return parse_path(self.job.folder)

    def find_model(self) -> StoredModel:
        """Return the job's model without loading its engine."""
        return find_stored(self.job.model, self.job.model_digest)

    def load_model(self) -> tuple[StoredModel, Engine]:
        """Return the job's model and its engine."""
        return self.resources.engines.get(self.job.model, self.job.model_digest)

    def open_source(self, model: StoredModel) -> ImageSource:
        """Open the job's source."""
        settings, roots = self.resources.settings, self.job.roots
        folders = ReadableFolders(roots, os.path.realpath(settings.home)) if roots else None
        return open_source(
            parse_path(self.job.source, https=settings.https_access),
            model.card.input,
            settings.max_image_pixels,
            self.job.options,
            https=settings.https_access,
            folders=folders,
            decoders=self.resources.decoders,
            check=self.lease.check,
        )

    def batches(
        self,
        shard: Shard,
        source: ImageSource,
        index: Path,
        spec: ImageSpec,
        *,
        one_by_one: bool = False,
    ) -> Iterator[BatchReader]:
        """Yield the batches of a shard; poisoned records become errors.

        Args:
            shard: The shard.
            source: The job's source.
            index: The plan's index.
            spec: Images of the model; a batch has fewer of large ones.
            one_by_one: Whether each batch is one record; it is if the shard has poisoned ones.
        """
        if not one_by_one and not shard.poisoned:
            size = run_size(spec, BATCH_SIZE)
            yield from source.batches(shard, size, index, self.job.revision)
            return
        for number, batch in enumerate(source.batches(shard, 1, index, self.job.revision)):
            if number in shard.poisoned:
                record = source.record_id(shard, number, index)
                yield partial(_failed, record, shard.reason, spec)
            else:
                yield batch

    def find_index(self, source: ImageSource) -> Path:
        """Return the plan's index.

        It is made again if Redis has lost the end of a job that was done.

        Raises:
            CancelledError: If the job has ended and deleted it.
        """
        index = outputs.index_path(self.output, self.job.revision)
        if not isinstance(index, Path) or index.is_dir():
            return self.resources.plan_indexes.local(index)
        self.lease.renew()
        self.lease.check()
        with outputs.temporary_index(self.output) as made:
            plan = source.plan(self.job.shard_images, made)
            check_unchanged(self.job.source, self.job.revision, plan.revision)
            outputs.publish_index(self.output, made, self.job.revision)
        return index


def score_batch(
    engine: Engine, clock: ShardClock, batch: BatchReader
) -> tuple[outputs.Part, UInt8Array]:
    """Return the result of a batch, and its images."""
    with clock.phase("read"):
        records = batch()
    with clock.phase("score"):
        probabilities, familiarity = engine.run(records.images)
    part = outputs.Part(
        records.ids, probabilities, records.errors, records.columns, familiarity=familiarity
    )
    return part, records.images


def _failed(record: str, reason: str, spec: ImageSpec) -> Records:
    error = LoupeError(
        f"The record could not be scored: every attempt failed ({reason}).", code="record_failed"
    )
    return Records([], spec.zeros(), [(record, error)])
