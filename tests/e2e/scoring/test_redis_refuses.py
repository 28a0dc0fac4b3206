"""A Redis that takes no jobs: one clear error, nothing left behind, and workers that wait."""

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.job_requests import new_request, submit
from tests.support.programs import run, running, serving, until
from tests.support.servers.redis_servers import RedisServer, redis_server
from worker.queue.jobs import Jobs

IMAGES = 2000


def fill(server: RedisServer) -> None:
    server.client.config_set("maxmemory", 1)


def become_a_replica(server: RedisServer) -> None:
    server.client.replicaof("127.0.0.1", "1")


def lose_replicas(server: RedisServer) -> None:
    server.client.config_set("min-replicas-to-write", 1)


TROUBLES = {
    "redis_full": fill,
    "redis_read_only": become_a_replica,
    "redis_unavailable": lose_replicas,
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", np.resize(pictures.digits(100), (IMAGES, 28, 28)))
    return tmp_path / "images.npy"


@pytest.mark.parametrize(("code", "trouble"), TROUBLES.items(), ids=TROUBLES)
def test_refused_job_is_one_error_and_leaves_nothing(
    server: RedisServer,
    images: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    code: str,
    trouble: Callable[[RedisServer], None],
) -> None:
    trouble(server)
    out, home = tmp_path / "out", tmp_path / "data"
    ended = run(
        *("score", images, "--out", out, "--model", digits_model.tag, "--detach"),
        LOUPE_REDIS_URL=server.url,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith(f"error: {code}: ")
    assert ended.stderr.count("\n") == 1
    assert not out.exists()

    variables = {"LOUPE_REDIS_URL": server.url, "LOUPE_DATA_DIR": home}
    with serving(tmp_path / "log", **variables, LOUPE_MODEL=digits_model.tag) as service:
        headers = {"Content-Type": "application/octet-stream"}
        url = f"{service.url}/jobs"
        answer = httpx.post(url, content=images.read_bytes(), headers=headers, timeout=30)
    assert (answer.status_code, answer.json()["code"]) == (503, code)
    assert list((home / "jobs").iterdir()) == []
    assert list(server.client.scan_iter()) == []


def test_jobs_are_cancelled_while_redis_is_full_and_end_when_there_is_room(
    server: RedisServer, images: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    jobs, log = Jobs(server.client), tmp_path / "log"
    waiting = jobs.submit(new_request(output=str(tmp_path / "other")))
    job = submit(jobs, images, tmp_path / "out", digits_model.tag, 20)
    fill(server)
    variables = {"LOUPE_REDIS_URL": server.url, "LOUPE_LEASE_SECONDS": 1}
    cancelled = run("jobs", "cancel", waiting.id, **variables)
    assert cancelled.returncode == 0, cancelled.stderr
    with running(log, "worker", **variables) as worker:
        until(lambda: "Trying again" in log.read_text())
        server.client.config_set("maxmemory", 0)
        until(lambda: jobs.get(job.id).done)
        fill(server)
        until(lambda: log.read_text().rstrip().endswith("Trying again."))
        server.client.config_set("maxmemory", 0)
        until(lambda: jobs.get(job.id).state in {"done", "failed"})
        worker.terminate()
        assert worker.wait(30) == 0

    assert (jobs.get(job.id).state, jobs.get(job.id).done) == ("done", IMAGES)
    assert "Traceback" not in log.read_text()
