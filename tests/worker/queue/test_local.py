"""Scoring in one process without Redis: what comes of it is what comes of it through the queue."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from redis import Redis

from loupe.jobs import ENDED
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support import pictures
from tests.support.programs import until
from worker.queue.claims import Queue
from worker.queue.jobs import Job, Jobs
from worker.queue.local import LocalQueue, working
from worker.queue.steps import Shard
from worker.queue.submission import resume, submit
from worker.results.outputs import read_summary
from worker.scoring.consumer import Consumer

IMAGES, SHARD = 50, 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", pictures.digits(IMAGES))
    return tmp_path / "images.npy"


def ended(queue: LocalQueue, job: Job) -> Job:
    until(lambda: queue.get(job.id).state in ENDED)
    return queue.get(job.id)


def test_the_parts_are_those_that_come_through_redis(
    redis: Redis, settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    submit(Jobs(redis), source, tmp_path / "redis", digits_model.tag, SHARD)
    Consumer(Jobs(redis), Queue(redis, "a", lease_seconds=30.0, max_attempts=2), settings).run(
        burst=True
    )
    with working(settings) as queue:
        job = ended(queue, submit(queue, source, tmp_path / "local", digits_model.tag, SHARD))

    assert (job.state, job.total, job.done, job.failed, job.shards) == (
        "done",
        IMAGES,
        IMAGES,
        0,
        5,
    )
    there, here = (
        sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("redis", "local")
    )
    assert there == here
    for name in here:
        if name.startswith("predictions"):
            assert (tmp_path / "redis" / name).read_bytes() == (
                tmp_path / "local" / name
            ).read_bytes()


def test_a_job_that_is_interrupted_keeps_what_it_has_and_goes_on_later(
    settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(100_000))
    out = tmp_path / "out"
    with working(settings) as queue:
        job = submit(queue, tmp_path / "images.npy", out, digits_model.tag, 500)
        until(lambda: queue.get(job.id).done)
        queue.interrupted.set()
        assert ended(queue, job).state == "cancelled"
        done = queue.get(job.id).done
    assert (read_summary(out) or {})["done"] == done < 100_000
    assert (out / "_CANCELLED").exists()

    with working(settings) as queue:
        again = resume(queue, out)
        assert again.id == job.id
        assert ended(queue, again).state == "done"
    assert pq.read_table(out)["id"].to_pylist() == list(range(100_000))


def test_an_error_that_no_try_can_mend_fails_the_job_at_once(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    queue = LocalQueue(max_attempts=5)
    job = submit(queue, source, tmp_path / "out", digits_model.tag, SHARD)
    source.write_bytes(b"text")
    Consumer(queue, queue, settings).run(burst=True)

    assert queue.get(job.id).state == "failed"
    assert "no IDX header" in str(queue.get(job.id).error)


def test_a_step_that_fails_is_tried_again(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    queue = LocalQueue(max_attempts=2)
    job = submit(queue, source, tmp_path / "out", digits_model.tag, SHARD)
    for attempt in (1, 2):
        delivery = until(queue.claim)
        assert delivery.attempt == attempt
        queue.fail(delivery, "the disk is full")

    assert (queue.get(job.id).state, queue.get(job.id).error) == ("failed", "the disk is full")
    assert queue.claim() is None


def test_a_cancelled_job_ends_when_no_shard_is_in_hand_any_more(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    queue = LocalQueue(max_attempts=2)
    submit(queue, source, tmp_path / "out", digits_model.tag, SHARD)
    shards = [Shard(index, index, index + 1) for index in range(2)]
    queue.commit_plan(until(queue.claim), 2, "", shards)
    written, given_up = queue.claim(), queue.claim()
    assert written is not None
    assert given_up is not None
    queue.interrupted.set()

    assert queue.claim() is None
    queue.commit_shard(written, 1, 0)
    assert not queue.renew(given_up, 1)
    assert queue.claim() is None
    queue.give_up(given_up)
    last = queue.claim()
    assert last is not None
    assert last.step.kind == "finish"
    assert queue.committed_shards("") == [0]
