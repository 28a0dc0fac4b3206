"""Workers as processes: how they stop, and how several run under one."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import httpx
import numpy as np
import psutil
import pytest
from redis import Redis

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import descendants, environment, free_port, run, running, until
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.keys import WORKERS_GROUP, job_key
from worker.queue.records import Job

LONG_SHARD = 400_000  # images: no machine scores them in a second in one thread


def array_job(jobs: Jobs, folder: Path, model: StoredModel, images: int, shard_images: int) -> Job:
    np.save(folder / "images.npy", np.resize(pictures.digits(500), (images, 28, 28)))
    return submit(jobs, folder / "images.npy", folder / "out", model.tag, shard_images)


def in_a_shard(redis: Redis, jobs: Jobs, job: Job) -> Callable[[], bool]:
    def check() -> bool:
        pending = (
            redis.xpending(job_key(job.id, "steps"), WORKERS_GROUP)
            if jobs.get(job.id).state == "running"
            else None
        )
        return bool(pending and pending["pending"])

    return check


def workers_of(supervisor: Popen[bytes]) -> list[psutil.Process]:
    return [process for process in descendants(supervisor.pid) if "worker" in process.cmdline()]


def test_worker_that_cannot_finish_in_time_releases_its_shard(
    tmp_path: Path, data: Path, redis_here: Redis, jobs: Jobs, digits_model: StoredModel
) -> None:
    np.lib.format.open_memmap(tmp_path / "images.npy", "w+", np.uint8, (LONG_SHARD, 28, 28)).flush()
    job = submit(jobs, tmp_path / "images.npy", tmp_path / "out", digits_model.tag, LONG_SHARD)
    settings = {
        "LOUPE_DATA_DIR": data,
        "LOUPE_LEASE_SECONDS": 600,
        "LOUPE_THREADS": 1,
        "LOUPE_SHUTDOWN_TIMEOUT_SECONDS": 1,
    }
    with running(tmp_path / "log", "worker", **settings) as worker:
        until(in_a_shard(redis_here, jobs, job))
        worker.terminate()
        assert worker.wait(20) == 0

    assert "released a step" in (tmp_path / "log").read_text()
    assert redis_here.xpending(job_key(job.id, "steps"), WORKERS_GROUP)["pending"] == 0
    assert redis_here.hget(job_key(job.id, "fences"), "shard-0") == "0"
    delivery = Claims(redis_here, "another", lease_seconds=600, max_attempts=1).claim()
    assert delivery is not None
    assert (delivery.step.name, delivery.attempt) == ("shard-0", 1)


def test_worker_processes_share_a_job_and_exit_after_a_burst(
    tmp_path: Path, data: Path, jobs: Jobs, digits_model: StoredModel
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 4_000, 100)
    ended = run("worker", "--processes", 2, "--burst", LOUPE_DATA_DIR=data)

    assert ended.returncode == 0, ended.stderr
    assert (jobs.get(job.id).state, jobs.get(job.id).done) == ("done", 4_000)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_of_one_command_stop_when_it_is_told_to(
    tmp_path: Path, data: Path, jobs: Jobs, number: signal.Signals
) -> None:
    with running(tmp_path / "log", "worker", "--processes", 2, LOUPE_DATA_DIR=data) as supervisor:
        until(lambda: len(jobs.workers()) == 2)
        workers = workers_of(supervisor)
        supervisor.send_signal(number)
        assert supervisor.wait(30) == 0

    assert len(workers) == 2
    assert not any(worker.is_running() for worker in workers)
    assert jobs.workers() == []
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_workers_of_one_command_end_when_it_is_killed(
    tmp_path: Path, data: Path, jobs: Jobs
) -> None:
    with running(tmp_path / "log", "worker", "--processes", 2, LOUPE_DATA_DIR=data) as supervisor:
        until(lambda: len(jobs.workers()) == 2)
        workers = workers_of(supervisor)
        supervisor.kill()
        until(lambda: not any(worker.is_running() for worker in workers))

    assert len(workers) == 2


def test_several_workers_are_healthy_and_measured_as_one_is(
    tmp_path: Path, data: Path, jobs: Jobs
) -> None:
    port = free_port()
    settings = {"LOUPE_DATA_DIR": data, "LOUPE_WORKER_METRICS_PORT": port}
    health = [sys.executable, "-m", "worker.health"]
    with running(tmp_path / "log", "worker", "--processes", 2, **settings) as supervisor:
        until(lambda: len(jobs.workers()) == 2)
        assert subprocess.run(health, env=environment(**settings)).returncode == 0
        texts = [httpx.get(f"http://127.0.0.1:{port + number}/metrics").text for number in (0, 1)]
        supervisor.terminate()
        assert supervisor.wait(30) == 0

    assert all("loupe_queue_oldest_seconds 0.0" in text for text in texts)
    assert subprocess.run(health, env=environment(**settings)).returncode == 1


def test_another_worker_takes_the_place_of_one_that_dies(
    tmp_path: Path, data: Path, jobs: Jobs
) -> None:
    with running(tmp_path / "log", "worker", "--processes", 2, LOUPE_DATA_DIR=data) as supervisor:
        until(lambda: len(jobs.workers()) == 2)
        victim = workers_of(supervisor)[0]
        before = set(jobs.workers())
        victim.kill()
        until(lambda: set(jobs.workers()) - before)
        supervisor.terminate()
        assert supervisor.wait(30) == 0

    assert re.search(r"worker \d died \(exit code -9\); restarting", (tmp_path / "log").read_text())
