"""Bulk scoring as a user runs it: workers are processes, and some of them die."""

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from loupe.images.spec import UInt8Array
from loupe.jobs import JobState
from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import run, running, until
from tests.support.servers.redis_servers import servers_in
from worker.queue.jobs import Jobs
from worker.queue.keys import WORKERS_GROUP, job_key
from worker.queue.records import Job, JobRequest

LEASE_SECONDS = 1.0
SHARD_IMAGES = 10_000  # enough work to be caught in the middle of it


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, UInt8Array]:
    """40 images in two folders, and the same as an array; besides them four broken files."""
    images = pictures.digits(40, seed=4)
    source = tmp_path / "images"
    (source / "deep" / "er").mkdir(parents=True)
    for place, image in enumerate(images):
        below = source / ("deep/er" if place >= 25 else ".")
        (below / f"{place:02}.png").write_bytes(pictures.png(image))
    (source / "03-text.png").write_bytes(b"no image")
    (source / "17-empty.jpg").write_bytes(b"")
    (source / "deep" / "er" / "30-cut.png").write_bytes(pictures.png(images[0])[:-40])
    (source / "deep" / "er" / "99-huge.png").write_bytes(pictures.huge_png(8000))
    (source / "notes.txt").write_text("not an image, and does not say that it is one")
    return source, images


def state_is(jobs: Jobs, job: Job, *states: JobState) -> Callable[[], bool]:
    return lambda: jobs.get(job.id).state in states


def rows(output: Path) -> pa.Table:
    return pa.concat_tables(
        pq.read_table(path) for path in sorted(output.glob("predictions-*.parquet"))
    )


def probabilities(
    table: pa.Table, model: StoredModel
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.stack([table[f"p_{name}"].to_numpy() for name in model.card.class_names], axis=1)


def assert_scores_the_array(
    output: Path, images: UInt8Array, engine: Engine, model: StoredModel
) -> None:
    """Every image once, in order, with the engine's own answer, and nothing left over."""
    table = rows(output)
    expected = np.concatenate(
        [engine.predict(images[start : start + 500]) for start in range(0, len(images), 500)]
    )
    assert table["id"].to_pylist() == list(range(len(images)))
    np.testing.assert_allclose(probabilities(table, model), expected, atol=1e-5)
    assert table["label"].to_pylist() == [
        model.card.class_names[best] for best in expected.argmax(axis=1)
    ]
    summary = json.loads((output / "_summary.json").read_text())
    assert (summary["total"], summary["done"], summary["failed"]) == (len(images), len(images), 0)
    assert sum(summary["labels"].values()) == len(images)
    assert sorted(path.name for path in output.iterdir() if "predictions" not in path.name) == [
        "_SUCCESS",
        "_columns.json",
        "_least-confident.png",
        "_sample.png",
        "_summary.json",
    ]


# Whole jobs


def test_broken_files_of_a_folder_become_errors(
    tmp_path: Path,
    data: Path,
    folder: tuple[Path, UInt8Array],
    digits_model: StoredModel,
    engine: Engine,
    jobs: Jobs,
) -> None:
    source, images = folder
    output = tmp_path / "results"
    settings = {
        "LOUPE_DATA_DIR": data,
        "LOUPE_SHARD_IMAGES": 12,
        "LOUPE_MAX_IMAGE_PIXELS": 10_000_000,
    }
    with running(tmp_path / "log", "worker", **settings):
        ended = run("score", source, "--out", output, "--model", "digits", **settings)

    assert ended.returncode == 0, ended.stderr
    assert "40 scored, errors: 4" in ended.stdout
    (job,) = jobs.all()
    assert (job.state, job.done, job.failed, job.shards) == ("done", 40, 4, 4)
    assert (job.total, job.skipped_files) == (45, {"not_a_picture": {".txt": 1}})
    table = rows(output)
    assert table["id"].to_pylist() == [
        f"{'deep/er/' if place >= 25 else ''}{place:02}.png" for place in range(40)
    ]
    np.testing.assert_allclose(
        probabilities(table, digits_model), engine.predict(images), atol=1e-5
    )
    texts = [path.read_text() for path in sorted(output.glob("_errors-*.jsonl"))]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [(line["id"], line["code"]) for line in lines] == [
        ("03-text.png", "invalid_image"),
        ("17-empty.jpg", "invalid_image"),
        ("deep/er/30-cut.png", "invalid_image"),
        ("deep/er/99-huge.png", "image_too_large"),
    ]
    assert "text starting 'no image'" in lines[0]["error"]
    summary = json.loads((output / "_summary.json").read_text())
    assert summary["errors"] == {"invalid_image": 3, "image_too_large": 1}
    assert summary["model"] == digits_model.tag
    assert (output / "_SUCCESS").exists()


def test_a_zip_archive_is_scored_into_one_csv_file(
    tmp_path: Path,
    data: Path,
    folder: tuple[Path, UInt8Array],
    digits_model: StoredModel,
    engine: Engine,
) -> None:
    source, images = folder
    archive = shutil.make_archive(str(tmp_path / "images"), "zip", source)
    settings = {
        "LOUPE_DATA_DIR": data,
        "LOUPE_SHARD_IMAGES": 12,
        "LOUPE_MAX_IMAGE_PIXELS": 10_000_000,
    }
    options = [
        "--format",
        "csv",
        "--single",
        "--top-k",
        2,
        "--no-probabilities",
        "--threshold",
        0.9,
    ]
    with running(tmp_path / "log", "worker", **settings):
        ended = run(
            "score", archive, "--out", tmp_path / "out", "--model", "digits", *options, **settings
        )

    assert ended.returncode == 0, ended.stderr
    assert "40 scored, errors: 4" in ended.stdout
    with (tmp_path / "out" / "predictions.csv").open(newline="", encoding="utf-8") as lines:
        rows = {row["id"]: row for row in csv.DictReader(lines)}
    expected = engine.predict(images)
    for name, row in rows.items():
        probabilities = expected[int(Path(name).stem)]
        assert float(row["confidence"]) == pytest.approx(probabilities.max(), abs=1e-5)
        assert row["label_2"] == digits_model.card.class_names[probabilities.argsort()[-2]]
        assert (row["label"] == "") == (probabilities.max() < 0.9)
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["abstained"] == sum(row["label"] == "" for row in rows.values())
    assert len(rows) == 40
    assert list((tmp_path / "out").glob("predictions-*")) == []


def test_local_command_scores_without_redis_and_workers(
    tmp_path: Path, folder: tuple[Path, UInt8Array], digits_model: StoredModel
) -> None:
    source, images = folder
    command = ["score", source, "--out", tmp_path / "out", "--model", digits_model.tag, "--local"]
    settings = {
        "LOUPE_DATA_DIR": tmp_path / "data",
        "LOUPE_SHARD_IMAGES": 12,
        "LOUPE_MAX_IMAGE_PIXELS": 10_000_000,
    }
    first, second = (run(*command, **settings) for _ in range(2))

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "40 scored, errors: 4" in first.stdout
    assert "40 scored, errors: 4" in second.stdout
    assert f"has scored {source}" in " ".join(second.stdout.split())
    assert len(rows(tmp_path / "out")) == len(images)
    assert not (tmp_path / "data").exists()


def test_two_workers_score_an_array_once(
    tmp_path: Path, data: Path, digits_model: StoredModel, engine: Engine, jobs: Jobs
) -> None:
    images = pictures.digits(3000, seed=9)
    np.save(tmp_path / "images.npy", images)
    job = submit(jobs, tmp_path / "images.npy", tmp_path / "out", digits_model.tag, 100)
    with (
        running(tmp_path / "one", "worker", "--burst", LOUPE_DATA_DIR=data) as one,
        running(tmp_path / "two", "worker", "--burst", LOUPE_DATA_DIR=data) as two,
    ):
        until(state_is(jobs, job, "done", "failed"))
        assert (one.wait(30), two.wait(30)) == (0, 0)

    assert jobs.get(job.id).error is None
    assert_scores_the_array(tmp_path / "out", images, engine, digits_model)


# Workers that stop, pause and die


@pytest.fixture
def long_job(tmp_path: Path, jobs: Jobs, digits_model: StoredModel) -> tuple[Job, UInt8Array]:
    """Submit a job of two shards that take long enough to be interrupted."""
    images = np.resize(pictures.digits(500, seed=2), (2 * SHARD_IMAGES, 28, 28))
    np.save(tmp_path / "images.npy", images)
    return submit(
        jobs, tmp_path / "images.npy", tmp_path / "out", digits_model.tag, SHARD_IMAGES
    ), images


def caught_in_a_shard(process: Popen[bytes], redis: Redis, jobs: Jobs, job: Job) -> None:
    """Stop a worker while it scores a shard."""

    def stopped() -> bool:
        if jobs.get(job.id).state != "running":
            return False
        os.kill(process.pid, signal.SIGSTOP)
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        if jobs.get(job.id).state == "running" and pending(redis, job):
            return True
        os.kill(process.pid, signal.SIGCONT)
        return False

    until(stopped)


def pending(redis: Redis, job: Job) -> int:
    """Return the number of steps in flight."""
    found = redis.xpending(job_key(job.id, "steps"), WORKERS_GROUP)
    return int(found["pending"])


def committed(redis: Redis, job: Job) -> int:
    """Images of the shards that are done; `job.done` counts those under way too."""
    return int(redis.hget(job_key(job.id), "done") or 0)


def fast(data: Path) -> dict[str, object]:
    """Return settings with a short lease."""
    return {"LOUPE_DATA_DIR": data, "LOUPE_LEASE_SECONDS": LEASE_SECONDS, "LOUPE_THREADS": 1}


def test_worker_killed_during_a_shard_loses_and_duplicates_nothing(
    tmp_path: Path,
    data: Path,
    redis_here: Redis,
    jobs: Jobs,
    long_job: tuple[Job, UInt8Array],
    engine: Engine,
    digits_model: StoredModel,
) -> None:
    job, images = long_job
    with running(tmp_path / "first", "worker", **fast(data)) as first:
        caught_in_a_shard(first, redis_here, jobs, job)
        first.kill()
        first.wait()
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    with running(tmp_path / "second", "worker", **fast(data)):
        until(state_is(jobs, job, "done", "failed"))

    assert "attempt 2: done" in (tmp_path / "second").read_text()
    assert (jobs.get(job.id).state, jobs.get(job.id).done) == ("done", 2 * SHARD_IMAGES)
    assert_scores_the_array(tmp_path / "out", images, engine, digits_model)


def test_worker_that_sleeps_past_its_lease_changes_nothing(
    tmp_path: Path,
    data: Path,
    redis_here: Redis,
    jobs: Jobs,
    long_job: tuple[Job, UInt8Array],
    engine: Engine,
    digits_model: StoredModel,
) -> None:
    job, images = long_job
    with running(tmp_path / "sleeper", "worker", **fast(data)) as sleeper:
        caught_in_a_shard(sleeper, redis_here, jobs, job)
        with running(tmp_path / "second", "worker", **fast(data)):
            until(state_is(jobs, job, "done", "failed"))
            before = jobs.get(job.id)
            os.kill(sleeper.pid, signal.SIGCONT)
            until(lambda: "lost to another worker" in (tmp_path / "sleeper").read_text())
        sleeper.terminate()
        assert sleeper.wait(30) == 0

    assert jobs.get(job.id) == before
    assert (before.state, before.done) == ("done", 2 * SHARD_IMAGES)
    assert_scores_the_array(tmp_path / "out", images, engine, digits_model)


def test_stopped_worker_finishes_its_shard(
    tmp_path: Path, data: Path, redis_here: Redis, jobs: Jobs, long_job: tuple[Job, UInt8Array]
) -> None:
    job, _ = long_job
    with running(
        tmp_path / "log", "worker", **fast(data), LOUPE_SHUTDOWN_TIMEOUT_SECONDS=40
    ) as worker:
        caught_in_a_shard(worker, redis_here, jobs, job)
        before = committed(redis_here, job)
        worker.terminate()
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.wait(50) == 0

    assert committed(redis_here, job) == before + SHARD_IMAGES
    assert pending(redis_here, job) == 0
    assert jobs.workers() == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_a_source_that_changes_under_a_job_fails_it(
    tmp_path: Path, data: Path, redis_here: Redis, jobs: Jobs, digits_model: StoredModel
) -> None:
    source = tmp_path / "images.npy"
    np.save(source, np.resize(pictures.digits(100), (SHARD_IMAGES, 28, 28)))
    job = submit(
        jobs, source, tmp_path / "out", digits_model.tag, 20
    )  # enough shards that some always remain
    with running(tmp_path / "log", "worker", **fast(data)) as worker:
        caught_in_a_shard(worker, redis_here, jobs, job)
        np.save(tmp_path / "new.npy", pictures.digits(SHARD_IMAGES))
        (tmp_path / "new.npy").replace(source)
        os.kill(worker.pid, signal.SIGCONT)
        until(state_is(jobs, job, "done", "failed"))

    ended = jobs.get(job.id)
    assert ended.state == "failed"
    assert f"'{source}' has changed" in str(ended.error)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_job_keeps_the_model_it_was_submitted_with(
    tmp_path: Path, data: Path, jobs: Jobs, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(5))
    source, output = str(tmp_path / "images.npy"), str(tmp_path / "out")
    job = jobs.submit(
        JobRequest(
            source=source,
            output=output,
            model=digits_model.tag,
            model_digest="0" * 64,
            shard_images=10,
        )
    )
    with running(tmp_path / "log", "worker", "--burst", LOUPE_DATA_DIR=data) as worker:
        assert worker.wait(50) == 0

    ended = jobs.get(job.id)
    assert ended.state == "failed"
    assert "card.json" in str(ended.error)


def test_following_a_failed_job_exits_with_one(
    tmp_path: Path, data: Path, digits_model: StoredModel
) -> None:
    source = tmp_path / "images"
    source.mkdir()
    (source / "a.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    with open_redis(Settings(data_dir=data)) as redis:
        jobs = Jobs(redis)
        with running(
            tmp_path / "log", "score", source, "--out", tmp_path / "out", LOUPE_DATA_DIR=data
        ) as score:
            (job,) = until(lambda: list(jobs.all()))
            (source / "a.png").unlink()
            with running(tmp_path / "worker", "worker", LOUPE_DATA_DIR=data):
                assert score.wait(50) == 1

    words = (tmp_path / "log").read_text()
    assert f"error: job_failed: Job {job.id} failed: " in words
    assert "Traceback" not in words


# The embedded Redis between processes


def test_jobs_outlive_the_processes_that_made_them(
    tmp_path: Path, data: Path, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(20))
    sent = run(
        "score",
        tmp_path / "images.npy",
        "--out",
        tmp_path / "out",
        "--model",
        "digits",
        "--detach",
        LOUPE_DATA_DIR=data,
    )
    assert sent.returncode == 0, sent.stderr
    assert "No worker is running" in sent.stderr
    assert servers_in(data) == []

    worked = run("worker", "--burst", LOUPE_DATA_DIR=data)
    assert worked.returncode == 0, worked.stderr
    assert servers_in(data) == []
    assert (tmp_path / "out" / "_SUCCESS").exists()
    listed = run("jobs", LOUPE_DATA_DIR=data, COLUMNS=200)
    assert "done" in listed.stdout
    assert str(tmp_path / "out") in listed.stdout.replace("\n", "")
