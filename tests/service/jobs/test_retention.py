"""Deletion of jobs, with their files, after they have ended."""

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loupe.settings import Settings
from service.jobs.background import background_work
from service.jobs.queue import JobQueue
from service.prediction.predictor import Predictor
from tests.support.job_requests import new_request
from tests.support.servers.redis_servers import RedisServer, redis_server
from worker.queue.jobs import Jobs
from worker.queue.keys import job_key

DAY_SECONDS = 86_400
DAYS = 2.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def folder(home: Path, name: str, *, days: float, mark: str | None = None) -> Path:
    """Make the folder of a job, with an upload and results, last changed days ago."""
    folder = home / "jobs" / name
    (folder / "results").mkdir(parents=True)
    (folder / "upload").write_bytes(b"images")
    (folder / "results" / "part.parquet").write_bytes(b"rows")
    if mark is not None:
        (folder / mark).touch()
    changed = time.time() - days * DAY_SECONDS
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (changed, changed))
    return folder


def submitted(server: RedisServer, folder: Path, state: str, days: float | None = None) -> str:
    """Submit the job of a folder, and let it reach a state days ago."""
    job = Jobs(server.client).submit(new_request(str(folder / "upload"), str(folder / "results")))
    server.client.hset(job_key(job.id), "state", state)
    if days is not None:
        server.client.hset(job_key(job.id), "finished", str(time.time() - days * DAY_SECONDS))
    return job.id


def delete_old(home: Path, redis_url: str) -> int:
    async def run() -> int:
        queue = JobQueue(Settings(data_dir=home, redis_url=redis_url, keep_results_days=DAYS))
        deleted = await queue.delete_old()
        await queue.close()
        return deleted

    return asyncio.run(run())


def test_jobs_that_ended_long_ago_are_deleted_and_others_are_kept(
    server: RedisServer, tmp_path: Path
) -> None:
    home = tmp_path / "data"
    gone = [
        submitted(server, folder(home, state, days=9), state, days=3)
        for state in ("done", "failed", "cancelled")
    ]
    kept = [
        submitted(server, folder(home, "running", days=9), "running"),
        submitted(server, folder(home, "queued", days=9), "queued"),
        submitted(server, folder(home, "retried", days=9), "running", days=3),
        submitted(server, folder(home, "just-done", days=9), "done", days=1),
        submitted(server, folder(home, "changed-since", days=1), "done", days=3),
    ]
    folder(home, "unknown", days=9)
    folder(home, ".half-deleted", days=9)
    folder(home, "unknown-and-new", days=1)
    late = folder(home, "unknown-and-written-to", days=9)
    os.utime(late / "results" / "part.parquet")
    folder(home, "uploading", days=9, mark="upload.part")
    (home / "jobs" / "link").symlink_to(folder(home / "elsewhere", "linked", days=9))

    assert delete_old(home, server.url) == 5
    assert {path.name for path in (home / "jobs").iterdir()} == {
        *("running", "queued", "retried", "just-done", "changed-since", "link"),
        *("unknown-and-new", "unknown-and-written-to", "uploading"),
    }
    assert (home / "elsewhere" / "jobs" / "linked" / "upload").exists()
    assert (home / "jobs" / "running" / "upload").exists()
    jobs = Jobs(server.client)
    assert {job.id for job in jobs.all()} == {*kept}
    assert [jobs.find(job_id) for job_id in gone] == [None, None, None]
    assert delete_old(home, server.url) == 0


def test_service_deletes_when_it_starts_and_counts(server: RedisServer, tmp_path: Path) -> None:
    submitted(server, folder(tmp_path, "done", days=9), "done", days=3)
    settings = Settings(data_dir=tmp_path, redis_url=server.url, keep_results_days=DAYS)
    predictor = Predictor(settings)

    async def run() -> bytes:
        work = background_work(settings, predictor.jobs, predictor.metrics)
        sweep = asyncio.create_task(work["delete old jobs"]())
        while not predictor.metrics.jobs_deleted:
            await asyncio.sleep(0.01)
        metrics = await predictor.exposed_metrics()
        sweep.cancel()
        await predictor.close()
        return metrics

    assert b"\nloupe_jobs_deleted_total 1.0\n" in asyncio.run(run())
    assert [*(tmp_path / "jobs").iterdir()] == []


def test_job_that_is_retried_meanwhile_is_kept(server: RedisServer, tmp_path: Path) -> None:
    job_id = submitted(server, folder(tmp_path, "retried", days=9), "failed", days=3)
    jobs = Jobs(server.client)
    jobs.submit(jobs.get(job_id).request)

    assert not jobs.forget(job_id)
    assert jobs.get(job_id).state == "queued"


def test_without_old_folders_redis_is_not_needed(tmp_path: Path) -> None:
    assert delete_old(tmp_path, "redis://127.0.0.1:1") == 0
    folder(tmp_path, "new", days=1)
    assert delete_old(tmp_path, "redis://127.0.0.1:1") == 0
