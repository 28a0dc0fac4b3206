"""The loops of a worker: claim a step, do it, commit it. Scoring and the leases run in threads of their own."""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from redis.exceptions import RedisError

from loupe.errors import LoupeError, StorageUnavailable
from loupe.images.spec import SIDE, UInt8Array
from loupe.models.engine import Engine
from loupe.models.store import StoredModel
from loupe.old_errors.worker import ContractDiffers, RecordFailed
from loupe.runtime.cores import available_cores
from loupe.settings import Settings
from worker.metrics import Metrics, Outcome, ShardClock
from worker.queue.claims import Delivery, Steps
from worker.queue.jobs import PROTOCOL, Job, Submissions
from worker.queue.steps import FinishStep, PlanStep, Probe, Shard
from worker.results import outputs, receipts
from worker.results.statistics import StepStatistics
from worker.scoring import bisection
from worker.scoring.engines import Engines, stored
from worker.scoring.lookahead import map_ahead
from worker.scoring.plan_index import NoteCopies
from worker.sources.opening import open_source
from worker.sources.source import BatchReader, ImageSource, Records, check_unchanged
from worker.storage import AnyPath, parse_path

logger = logging.getLogger(__name__)

LOOPS = 2  # one scores while the other one writes what it has scored
IDLE_SECONDS = (
    0.2  # between the looks of a loop for a step; a job that is new wakes one worker at once
)
BATCH_SIZE = 128  # images that one thread reads and scores in a row; what becomes of them then stays in its cache
LOOK_AT = 32  # batches whose images are looked at together, for the sheets in the summary: one by one took a tenth of the time
AHEAD = 2  # batches for each thread that are read before their turn; more would only take memory
REDIS_PAUSE_SECONDS = 1.0  # after the client's own retries have failed

SAID: dict[Outcome, str] = {
    "done": "done",
    "cancelled": "given up, since the job is cancelled",
    "lost": "lost to another worker",
}  # in the log, of steps that did not fail


@dataclass
class Consumer:
    """One worker's loops, which take turns: each reads and scores a shard, and writes it while the next one is scored.

    Attributes:
        jobs: Where jobs are looked up.
        queue: Where steps come from.
        settings: Limits and threads.
        stopping: Set it, and the loops end after the steps in hand.
        metrics: What it has done.
    """

    jobs: Submissions
    queue: Steps
    settings: Settings
    stopping: threading.Event = field(default_factory=threading.Event)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        # Each thread reads and scores its own batches, the engine in one thread: that is faster than an engine in many threads,
        # which wait for each other in every layer, and pictures are decoded by one while another scores.
        self._threads = self.settings.threads or available_cores()
        self._scorers = ThreadPoolExecutor(self._threads, thread_name_prefix="score")
        self._engines = Engines(self.settings.engine)
        self._turn = (
            threading.Lock()
        )  # of the loop that may claim and read; what it has read may be scored beside the next
        self._leases: set[Lease] = set()  # of the steps in hand
        self._notes = NoteCopies()

    def run(self, *, burst: bool = False) -> None:
        """Work until `stopping` is set or, with `burst`, until no step is left to claim."""
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        try:
            with ThreadPoolExecutor(LOOPS, thread_name_prefix="loop") as loops:
                for loop in [loops.submit(self._loop, burst=burst) for _ in range(LOOPS)]:
                    loop.result()
        finally:
            self.stopping.set()
            beat.join()
            self._scorers.shutdown()
            self._notes.close()

    def hand_back(self) -> None:
        """From another thread, when there is no time to finish the steps in hand: let other workers have them at once."""
        for lease in list(self._leases):
            if lease.hand_back():
                logger.info("handed back what could not be finished in time")

    def _loop(self, *, burst: bool) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    if not self._claim_and_work():
                        if burst:
                            return
                        self.queue.wait(IDLE_SECONDS)
                except RedisError:
                    logger.exception("Redis does not answer; trying again")
                    self.stopping.wait(REDIS_PAUSE_SECONDS)
        except BaseException:
            self.stopping.set()  # a worker with half of its loops would look as if all were well
            raise

    def _claim_and_work(self) -> bool:
        """Whether there was a step to do."""
        with ExitStack() as turn:
            turn.enter_context(self._turn)
            if self.stopping.is_set():
                return False
            delivery = self.queue.claim()
            if delivery is None:
                return False
            self._work(delivery, turn)
            return True

    def _beat(self) -> None:
        while True:
            try:
                self.queue.beat()
                if self.stopping.wait(1.0):
                    self.queue.leave()
                    return
            except RedisError:
                logger.warning("no heartbeat: Redis does not answer")
                if self.stopping.wait(REDIS_PAUSE_SECONDS):
                    return

    def _work(self, delivery: Delivery, turn: ExitStack) -> None:
        """Do one step; whatever goes wrong is recorded on its job, and the loop goes on. Where it needs its turn no more, it closes it."""
        job = self.jobs.find(delivery.job_id)
        if job is None:
            logger.warning(
                "job %s is gone from Redis; see how to go on with it: loupe score --help",
                delivery.job_id,
            )
            return
        self.metrics.claimed(delivery)
        started = time.monotonic()
        lease = Lease(self.queue, delivery)
        self._leases.add(lease)
        try:
            with lease:
                if job.contract != PROTOCOL:
                    raise ContractDiffers(job.id, PROTOCOL, job.contract)
                if delivery.attempt > self._most_attempts(delivery):
                    raise RecordsFailed(
                        f"the workers that tried it {self._most_attempts(delivery)} times all died"
                    )
                committed = self._do(job, delivery, lease, turn)
        except RedisError:
            raise
        except LoupeError as error:
            logger.warning("job %s, %s: %s", job.id, delivery.step.name, error)
            is_last = not isinstance(
                error, StorageUnavailable
            ) or delivery.attempt >= self._most_attempts(delivery)
            self.queue.fail(delivery, error.message, final=is_last)
            self.metrics.ended(delivery, "failed" if is_last else "retried")
        except RecordsFailed as error:
            logger.exception(
                "job %s, %s, attempt %d failed", job.id, delivery.step.name, delivery.attempt
            )
            self.metrics.ended(delivery, self._blame(delivery, error))
        except Exception as error:  # the border of the loop
            logger.exception(
                "job %s, %s, attempt %d failed", job.id, delivery.step.name, delivery.attempt
            )
            self.queue.fail(delivery, f"{delivery.step.name}: {error}")
            self.metrics.ended(
                delivery, "retried" if delivery.attempt < self.queue.max_attempts else "failed"
            )
        else:
            outcome: Outcome = "done" if committed else self._put_down(delivery)
            self.metrics.ended(delivery, outcome)
            seconds = time.monotonic() - started
            logger.info(
                "job %s, %s, attempt %d: %s, %.2f s",
                job.id,
                delivery.step.name,
                delivery.attempt,
                SAID[outcome],
                seconds,
            )
        finally:
            self._leases.discard(lease)

    def _most_attempts(self, delivery: Delivery) -> int:
        return (
            bisection.PROBE_ATTEMPTS
            if isinstance(delivery.step, Probe)
            else self.queue.max_attempts
        )

    def _blame(self, delivery: Delivery, error: "RecordsFailed") -> Outcome:
        """Try a step again later; after its last try, look for the record that makes it fail."""
        is_last = delivery.attempt >= self._most_attempts(delivery)
        step = (
            bisection.after_failure(delivery.step, str(error))
            if is_last and isinstance(delivery.step, Shard | Probe)
            else None
        )
        if step is None:
            self.queue.fail(delivery, f"{delivery.step.name}: {error}", final=is_last)
            return "failed" if is_last else "retried"
        self.queue.replace(delivery, step)
        return "retried"

    def _put_down(self, delivery: Delivery) -> Outcome:
        """Why a step was not committed, once it is nobody's or another worker's."""
        return "cancelled" if self.queue.give_up(delivery) else "lost"

    def _do(self, job: Job, delivery: Delivery, lease: "Lease", turn: ExitStack) -> bool:
        match delivery.step:
            case PlanStep():
                return self._plan(job, delivery)
            case Shard() as shard:
                return self._score(job, delivery, shard, lease, turn)
            case Probe() as probe:
                return self._probe(job, delivery, probe, lease)
            case FinishStep():
                return self._finish(job, delivery, turn)

    def _plan(self, job: Job, delivery: Delivery) -> bool:
        model = stored(job.model, job.model_digest)
        output = parse_path(job.output)
        output.mkdir(parents=True, exist_ok=True)
        clock = ShardClock()
        with outputs.temporary_index(output) as notes:
            with clock.phase("plan"):
                plan = self._source(job, model).plan(job.shard_images, notes)
            outputs.publish_index(output, notes, plan.revision)
        receipts.write_plan_statistics(
            output, StepStatistics([self.queue.worker], dict(clock.seconds))
        )
        fingerprint = job.request.fingerprint(plan.revision)
        kept = dict(receipts.valid_receipts(output, len(plan.shards), fingerprint))
        return self.queue.commit_plan(
            delivery,
            plan.total,
            plan.revision,
            [shard for shard in plan.shards if shard.index not in kept],
            [shard.name for shard in plan.shards if shard.index in kept],
            done=sum(receipt.done for receipt in kept.values()),
            failed=sum(receipt.failed for receipt in kept.values()),
        )

    def _score(
        self, job: Job, delivery: Delivery, step: Shard, lease: "Lease", turn: ExitStack
    ) -> bool:
        model, engine = self._engine(job)
        clock, figures, random = (
            ShardClock(),
            StepStatistics([self.queue.worker]),
            np.random.default_rng(step.index),
        )
        work, batches = (
            partial(_score_batch, engine, clock),
            _closing(turn, self._batches(job, model, step, lease)),
        )
        parts: list[outputs.Part] = []
        unseen: list[tuple[outputs.Part, UInt8Array]] = []
        with _blaming_records():
            for scored, images in map_ahead(self._scorers, work, batches, AHEAD * self._threads):
                if lease.lost:
                    return False
                parts.append(scored)
                unseen.append((scored, images))
                if len(unseen) == LOOK_AT:
                    _look_at(figures, unseen, random)
                    unseen.clear()
                lease.scored += len(scored.ids)
        if lease.lost:
            return False
        _look_at(figures, unseen, random)
        part = outputs.concatenate(parts, len(model.card.class_names))
        output, names = parse_path(job.output), model.card.class_names
        with clock.phase("write"):
            files = outputs.write_part(output, step.index, job.shards, part, names, job.options)
        figures.seconds = dict(clock.seconds)
        self._vouch(job, step.index, part, files, figures)
        committed = not lease.lost and self.queue.commit_shard(
            delivery, len(part.ids), len(part.errors)
        )
        if committed:
            self.metrics.committed(len(part.ids), [error.code for _, error in part.errors], clock)
        else:
            outputs.remove_uncommitted(output, job, step.index)
        return committed

    def _vouch(
        self, job: Job, shard: int, part: outputs.Part, files: list[str], figures: StepStatistics
    ) -> None:
        receipts.write_receipt(
            parse_path(job.output),
            shard,
            job.shards,
            files,
            fingerprint=job.request.fingerprint(job.revision),
            done=len(part.ids),
            failed=len(part.errors),
            figures=figures,
        )

    def _probe(self, job: Job, delivery: Delivery, step: Probe, lease: "Lease") -> bool:
        """Try some records of a shard by themselves, and have the search go on where the one must be that makes it fail."""
        model, engine = self._engine(job)
        first, stop = bisection.probed(step)
        with _blaming_records():
            for batch in islice(self._batches(job, model, step, lease), first, stop):
                if lease.lost:
                    return False
                _score_batch(engine, ShardClock(), batch)
        return not lease.lost and self.queue.replace(delivery, bisection.after_success(step))

    def _batches(
        self, job: Job, model: StoredModel, step: Shard | Probe, lease: "Lease"
    ) -> Iterator[BatchReader]:
        """The records of a shard, a few at a time; one by one where some are to be left out, or one is to be found."""
        source = self._source(job, model)
        notes = self._planned(job, source, lease)
        if notes is None:
            return
        notes = self._notes.of(notes)
        shard = step.shard if isinstance(step, Probe) else step
        if step is shard and not shard.poisoned:
            yield from source.batches(shard, BATCH_SIZE, notes, job.revision)
            return
        poisoned = set(shard.poisoned)
        for number, batch in enumerate(source.batches(shard, 1, notes, job.revision)):
            if number not in poisoned:
                yield batch
            else:
                record = source.record_id(shard, number, notes)
                yield partial(_failed_record, record, RecordFailed(shard.reason))

    def _source(self, job: Job, model: StoredModel) -> ImageSource:
        https = self.settings.https_sources
        source = parse_path(job.source, https=https)
        return open_source(
            source, model.card.look, self.settings.max_image_pixels, job.options, https=https
        )

    def _planned(self, job: Job, source: ImageSource, lease: "Lease") -> AnyPath | None:
        """Where the notes of the plan are; made again where they are gone, as when Redis has lost the end of a job that was done.

        `None` if they are gone because another worker has finished the job.
        """
        output = parse_path(job.output)
        notes = outputs.index_path(output, job.revision)
        if isinstance(notes, Path) and not notes.is_dir():
            if not lease.renew():
                return None
            with outputs.temporary_index(output) as made:
                check_unchanged(
                    job.source, job.revision, source.plan(job.shard_images, made).revision
                )
                outputs.publish_index(output, made, job.revision)
        return notes

    def _finish(self, job: Job, delivery: Delivery, turn: ExitStack) -> bool:
        turn.close()
        model = stored(job.model, job.model_digest)
        shards = (
            self.queue.committed_shards(job.id) if job.state == "cancelling" else range(job.shards)
        )
        output = parse_path(job.output)
        outputs.write_summary(
            output,
            job,
            model.card.class_names,
            shards,
            receipts.total_statistics(output, shards, job.shards),
        )
        return self.queue.commit_finish(delivery)

    def _engine(self, job: Job) -> tuple[StoredModel, Engine]:
        """The job's model and no other, loaded once."""
        return self._engines.get(job.model, job.model_digest)


class Lease:
    """Renews a delivery's lease from a thread while a block runs, and notices when it is lost."""

    def __init__(self, queue: Steps, delivery: Delivery) -> None:
        self.scored = 0
        self.lost = False
        self._queue = queue
        self._delivery = delivery
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def hand_back(self) -> bool:
        """Give it back to the queue before the block ends, if it is still held."""
        self.lost = True  # before the queue knows: who sees it commits no more
        self._over.set()
        return self._queue.hand_back(self._delivery)

    def renew(self) -> bool:
        """Whether it is still held; then for its whole time again."""
        if not self._queue.renew(self._delivery, self.scored):
            self.lost = True
        return not self.lost

    def _renew(self) -> None:
        while not self._over.wait(self._queue.lease_seconds / 4):
            try:
                if not self.renew():
                    return
            except RedisError:
                logger.warning("a lease could not be renewed: Redis does not answer")


class RecordsFailed(Exception):
    """A shard, or a probe, that failed while its records were read and scored: one of them may be at fault."""


@contextmanager
def _blaming_records() -> Iterator[None]:
    """Raises `RecordsFailed` for what no better explanation is known for."""
    try:
        yield
    except (LoupeError, RedisError, OSError):  # no record is at fault
        raise
    except Exception as error:
        raise RecordsFailed(str(error)) from error


def _look_at(
    figures: StepStatistics,
    batches: Sequence[tuple[outputs.Part, UInt8Array]],
    random: np.random.Generator,
) -> None:
    if not batches:
        return
    parts, images = zip(*batches, strict=True)
    seen = outputs.concatenate(parts, parts[0].probabilities.shape[1])
    figures.add_images(seen.ids, np.concatenate(images), seen.probabilities, random)


def _closing(turn: ExitStack, batches: Iterator[BatchReader]) -> Iterator[BatchReader]:
    """The same batches; after the last, whoever waits for the turn may claim, so that there is work when they are scored."""
    yield from batches
    turn.close()


def _failed_record(record: str, error: LoupeError) -> Records:
    return Records([], np.empty((0, SIDE, SIDE), np.uint8), [(record, error)])


def _score_batch(
    engine: Engine, clock: ShardClock, batch: BatchReader
) -> tuple[outputs.Part, UInt8Array]:
    """The result of a batch, and its images."""
    with clock.phase("read"):
        records = batch()
    with clock.phase("score"):
        probabilities = engine.predict(records.images)
    return outputs.Part(records.ids, probabilities, records.errors, records.columns), records.images


def worker_name() -> str:
    """A name that no two workers share: host, process, and a few random letters for containers that look alike."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
