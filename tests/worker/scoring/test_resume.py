"""Resuming jobs after a failure, a cancellation or the loss of the queue; overwriting results."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow.parquet as pq
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from loupe.errors import Conflict, InvalidOutput
from loupe.jobs import ENDED, ScoringOptions
from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import until
from worker.metrics import ShardClock
from worker.queue.claims import Claims, Delivery
from worker.queue.jobs import Jobs
from worker.queue.records import Job
from worker.queue.submission import cancel, prepare_resume, retry
from worker.results import receipts
from worker.results.outputs import read_errors, read_summary
from worker.scoring import task
from worker.scoring.consumer import Consumer
from worker.sources.source import Records

NewConsumer: TypeAlias = Callable[[], Consumer]
IMAGES, SHARD = 50, 10


@contextmanager
def raises_conflict(code: str, fact: str | None = None) -> Iterator[None]:
    with pytest.raises(Conflict, match=fact) as raised:
        yield
    assert (raised.value.code, raised.value.status) == (code, 409)


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis)


@pytest.fixture
def new_consumer(redis: Redis, settings: Settings) -> NewConsumer:
    return lambda: Consumer(
        Jobs(redis), Claims(redis, "a", lease_seconds=30.0, max_attempts=2), settings
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", pictures.digits(IMAGES))
    return tmp_path / "images.npy"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def job(jobs: Jobs, source: Path, out: Path, digits_model: StoredModel) -> Job:
    return submit(jobs, source, out, digits_model.tag, SHARD)


def rows(out: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pq.read_table(out).to_pylist()
    return found


def contents(out: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.fixture
def stopped_job(new_consumer: NewConsumer, job: Job, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Run a worker that stops after two of five shards."""
    consumer = new_consumer()
    left = iter([1, 0])
    claim = consumer.claims.claim

    def claimed() -> Delivery | None:
        delivery = claim()
        if delivery is not None and delivery.step.kind == "shard" and next(left) == 0:
            consumer.stopping.set()
        return delivery

    monkeypatch.setattr(consumer.claims, "claim", claimed)
    consumer.run()
    return job


@pytest.fixture
def scored(stopped_job: Job, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the numbers of the shards whose parts are written after the worker has stopped."""
    scored: list[int] = []
    write = receipts.write_receipt

    def noted(folder: Path, shard: int, *about: object, **more: object) -> None:
        scored.append(shard)
        write(folder, shard, *about, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(receipts, "write_receipt", noted)
    return scored


def test_finished_job_is_not_scored_again(
    jobs: Jobs, new_consumer: NewConsumer, job: Job, source: Path, out: Path
) -> None:
    new_consumer().run(burst=True)
    done = jobs.get(job.id)
    again = submit(jobs, source, out, job.model, SHARD)

    assert (again, again.state) == (done, "done")
    assert new_consumer().claims.claim() is None


def test_what_is_done_is_known_when_its_record_has_gone(
    jobs: Jobs, redis: Redis, new_consumer: NewConsumer, job: Job, source: Path, out: Path
) -> None:
    new_consumer().run(burst=True)
    redis.flushall()
    again = submit(jobs, source, out, job.model, SHARD)

    assert (again.id, again.state, again.total, again.done, again.shards) == (
        job.id,
        "done",
        IMAGES,
        IMAGES,
        5,
    )


def test_result_of_a_changed_source_is_overwritten_only_with_again(
    jobs: Jobs, new_consumer: NewConsumer, job: Job, source: Path, out: Path
) -> None:
    new_consumer().run(burst=True)
    np.save(source, pictures.digits(IMAGES + 7))
    with raises_conflict("result_exists", "--again"):
        submit(jobs, source, out, job.model, SHARD)
    assert len(rows(out)) == IMAGES

    submit(jobs, source, out, job.model, SHARD, again=True)
    new_consumer().run(burst=True)
    assert len(rows(out)) == IMAGES + 7
    assert len(list(out.glob("predictions-*"))) == 6


@pytest.mark.parametrize("state", ["done", "cancelled", "lost"])
def test_again_overwrites_the_result_of_any_job_that_has_ended(
    jobs: Jobs,
    redis: Redis,
    new_consumer: NewConsumer,
    stopped_job: Job,
    source: Path,
    out: Path,
    state: str,
) -> None:
    if state == "lost":
        redis.flushall()
    else:
        if state == "cancelled":
            cancel(jobs, stopped_job.id)
        new_consumer().run(burst=True)
    (out / "notes.txt").write_text("of a user")
    (out / "predictions-by-hand.csv").write_text("of a user")
    options = ScoringOptions(format="csv", single=True)
    with pytest.raises(InvalidOutput, match="--again"):
        submit(jobs, source, out, stopped_job.model, SHARD + 1, options)

    before = contents(out)
    job = submit(jobs, source, out, stopped_job.model, SHARD + 1, options, again=True)
    before.pop("_RUNNING", None)
    assert contents(out) | before == contents(out)
    new_consumer().run(burst=True)
    assert jobs.get(job.id).state == "done"
    assert {path.name for path in out.glob("[!._]*")} == {
        "predictions.csv",
        "notes.txt",
        "predictions-by-hand.csv",
    }
    assert len((out / "predictions.csv").read_text().splitlines()) == 1 + IMAGES
    assert not (out / "_CANCELLED").exists()
    assert read_summary(out)["job"] == job.id


def test_result_stays_if_the_job_that_replaces_it_is_refused_or_cancelled(
    jobs: Jobs, redis: Redis, new_consumer: NewConsumer, job: Job, source: Path, out: Path
) -> None:
    new_consumer().run(burst=True)
    before = contents(out)
    redis.config_set("maxmemory", 1)
    with pytest.raises(ResponseError):
        submit(jobs, source, out, job.model, SHARD, ScoringOptions(top_k=2), again=True)
    assert contents(out) == before

    redis.config_set("maxmemory", 0)
    other = submit(jobs, source, out, job.model, SHARD, ScoringOptions(top_k=2), again=True)
    cancel(jobs, other.id)
    assert contents(out) == before

    retry(jobs, other.id)
    new_consumer().run(burst=True)
    assert jobs.get(other.id).state == "done"
    assert "label_2" in rows(out)[0]


def test_repeated_command_does_not_keep_what_it_replaces(
    jobs: Jobs, new_consumer: NewConsumer, job: Job, source: Path, out: Path
) -> None:
    single = ScoringOptions(single=True)
    submit(jobs, source, out.with_name("single"), job.model, SHARD, single)
    new_consumer().run(burst=True)
    np.save(source, pictures.digits(IMAGES + 7)[::-1])
    submit(jobs, source, out.with_name("single"), job.model, SHARD, single, again=True)
    submit(jobs, source, out.with_name("single"), job.model, SHARD, single)
    new_consumer().run(burst=True)
    assert len(rows(out.with_name("single") / "predictions.parquet")) == IMAGES + 7


def test_running_job_cannot_be_overwritten(jobs: Jobs, job: Job, source: Path, out: Path) -> None:
    with raises_conflict("job_not_ended"):
        submit(jobs, source, out, job.model, SHARD, again=True)


def test_resume_after_the_queue_is_lost_scores_only_missing_parts(
    jobs: Jobs,
    redis: Redis,
    new_consumer: NewConsumer,
    stopped_job: Job,
    out: Path,
    scored: list[int],
) -> None:
    redis.flushall()
    resumed = jobs.submit(prepare_resume(out))
    new_consumer().run(burst=True)

    assert resumed.id == stopped_job.id
    assert sorted(scored) == [2, 3, 4]
    assert [row["id"] for row in rows(out)] == list(range(IMAGES))
    assert (read_summary(out)["done"], jobs.get(stopped_job.id).done) == (IMAGES, IMAGES)
    assert not list(out.glob("_part-*"))


def test_summary_of_a_resumed_job_lists_all_workers(
    jobs: Jobs,
    redis: Redis,
    settings: Settings,
    new_consumer: NewConsumer,
    stopped_job: Job,
    out: Path,
) -> None:
    redis.flushall()
    jobs.submit(prepare_resume(out))
    Consumer(Jobs(redis), Claims(redis, "b", lease_seconds=30.0, max_attempts=2), settings).run(
        burst=True
    )

    assert read_summary(out)["workers"] == ["a", "b"]


@pytest.mark.parametrize(
    "harm",
    ["predictions cut short", "predictions gone", "receipt cut short", "receipt of other rows"],
)
def test_damaged_part_is_scored_again(
    jobs: Jobs,
    redis: Redis,
    new_consumer: NewConsumer,
    stopped_job: Job,
    out: Path,
    scored: list[int],
    harm: str,
) -> None:
    part, receipt = out / "predictions-00001-of-00005.parquet", out / "_part-00001-of-00005.json"
    if harm == "predictions cut short":
        part.write_bytes(part.read_bytes()[:-20])
    elif harm == "predictions gone":
        part.unlink()
    elif harm == "receipt cut short":
        receipt.write_text(receipt.read_text()[:-20])
    else:
        receipt.write_text(
            receipt.read_text().replace(
                jobs.get(stopped_job.id).request.fingerprint(jobs.get(stopped_job.id).revision), "0"
            )
        )
    redis.flushall()
    jobs.submit(prepare_resume(out))
    new_consumer().run(burst=True)

    assert sorted(scored) == [1, 2, 3, 4]
    assert [row["id"] for row in rows(out)] == list(range(IMAGES))


def test_parts_of_an_earlier_source_version_are_scored_again(
    jobs: Jobs,
    redis: Redis,
    new_consumer: NewConsumer,
    stopped_job: Job,
    source: Path,
    out: Path,
    scored: list[int],
) -> None:
    redis.flushall()
    np.save(source, 255 - pictures.digits(IMAGES))
    jobs.submit(prepare_resume(out))
    new_consumer().run(burst=True)

    assert sorted(scored) == [0, 1, 2, 3, 4]


def test_a_cancelled_job_goes_on_where_it_ended(
    jobs: Jobs,
    new_consumer: NewConsumer,
    stopped_job: Job,
    source: Path,
    out: Path,
    scored: list[int],
) -> None:
    cancel(jobs, stopped_job.id)
    new_consumer().run(burst=True)
    assert (out / "_CANCELLED").exists()
    retry(jobs, stopped_job.id)
    new_consumer().run(burst=True)

    assert sorted(scored) == [2, 3, 4]
    assert sorted(path.name for path in out.glob("_*")) == [
        "_SUCCESS",
        "_columns.json",
        "_least-confident.png",
        "_sample.png",
        "_summary.json",
    ]
    assert len(rows(out)) == IMAGES


def test_submitting_a_failed_job_again_resumes_it(
    jobs: Jobs,
    new_consumer: NewConsumer,
    stopped_job: Job,
    source: Path,
    out: Path,
    scored: list[int],
) -> None:
    shutil.move(source, source.with_suffix(".away"))
    new_consumer().run(burst=True)
    assert jobs.get(stopped_job.id).state == "failed"
    assert [letter.step for letter in jobs.dead_letters(stopped_job.id)] == ["shard-2"]
    shutil.move(source.with_suffix(".away"), source)
    assert submit(jobs, source, out, stopped_job.model, SHARD).id == stopped_job.id
    new_consumer().run(burst=True)

    assert sorted(scored) == [2, 3, 4]
    assert (
        jobs.get(stopped_job.id).state,
        jobs.get(stopped_job.id).error,
        jobs.dead_letters(stopped_job.id),
    ) == (
        "done",
        None,
        [],
    )


def test_only_failed_and_cancelled_jobs_can_be_retried(
    jobs: Jobs, new_consumer: NewConsumer, job: Job
) -> None:
    with raises_conflict("job_not_ended", "is queued"):
        retry(jobs, job.id)
    new_consumer().run(burst=True)
    with raises_conflict("job_not_ended", "is done"):
        retry(jobs, job.id)


def test_folder_without_an_unfinished_job_cannot_be_resumed(
    jobs: Jobs, new_consumer: NewConsumer, job: Job, out: Path
) -> None:
    with raises_conflict("nothing_to_resume", "no job"):
        jobs.submit(prepare_resume(out.parent))
    new_consumer().run(burst=True)
    with raises_conflict("nothing_to_resume", "done"):
        jobs.submit(prepare_resume(out))


@pytest.mark.parametrize("kind", ["array", "folder"])
def test_record_that_fails_its_shard_becomes_an_error(
    jobs: Jobs,
    new_consumer: NewConsumer,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    images = pictures.digits(IMAGES)
    poison = np.zeros_like(images[0])
    poison[4:24, 4:24] = 77  # a centred box as large as MNIST's, which needs no normalizing
    images[[13, 17]] = poison
    if kind == "array":
        np.save(tmp_path / "images.npy", images)
    else:
        (tmp_path / "images.npy").mkdir()
        for number, image in enumerate(images):
            (tmp_path / "images.npy" / f"{number:02d}.png").write_bytes(pictures.png(image))
    score = task.score_batch

    def fragile(engine: Engine, clock: ShardClock, batch: Callable[[], Records]) -> object:
        if (batch().images == poison).all(axis=(1, 2)).any():
            raise MemoryError("it is too grey")
        return score(engine, clock, batch)

    monkeypatch.setattr(task, "score_batch", fragile)
    job = submit(
        jobs,
        tmp_path / "images.npy",
        tmp_path / "out",
        digits_model.tag,
        SHARD,
        ScoringOptions(top_k=2),
    )

    def has_ended() -> bool:
        consumer = new_consumer()
        consumer.claims.max_attempts = 1
        consumer.run(burst=True)
        return jobs.get(job.id).state in ENDED

    until(has_ended)
    assert (jobs.get(job.id).state, jobs.get(job.id).done, jobs.get(job.id).failed) == (
        "done",
        48,
        2,
    )
    suffix = "" if kind == "array" else ".png"
    errors = list(read_errors(tmp_path / "out"))
    assert [(error["id"], error["code"]) for error in errors] == [
        (f"{n}{suffix}", "record_failed") for n in (13, 17)
    ]
    assert "it is too grey" in errors[0]["error"]


def test_a_job_of_another_version_is_refused(
    jobs: Jobs, redis: Redis, new_consumer: NewConsumer, job: Job
) -> None:
    redis.hset(f"loupe:{{job:{job.id}}}", "contract", "0")
    new_consumer().run(burst=True)

    assert jobs.get(job.id).state == "failed"
    assert "protocol 0" in str(jobs.get(job.id).error)


def test_job_missing_in_redis_does_not_stop_the_worker(
    jobs: Jobs, redis: Redis, new_consumer: NewConsumer, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer = new_consumer()
    claim = consumer.claims.claim

    def claimed_and_lost() -> object:
        delivery = claim()
        redis.flushall()
        return delivery

    monkeypatch.setattr(consumer.claims, "claim", claimed_and_lost)
    consumer.run(burst=True)

    assert list(jobs.all()) == []
    assert os.listdir(job.output) == ["_RUNNING"]  # noqa: PTH208
