"""Workers whose Redis restarts, pauses, or does not take what they write."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from redis.exceptions import RedisError

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import run, running, until
from tests.support.servers.redis_servers import RedisServer, redis_server
from worker.queue.jobs import Jobs
from worker.queue.records import Job

IMAGES = 10_000
PAUSE_SECONDS = 6.0  # longer than a client waits for an answer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    options = {"appendonly": "yes", "appendfsync": "always", "lua-time-limit": "100"}
    with redis_server(tmp_path / "redis", **options) as server:
        yield server


@pytest.fixture
def job(server: RedisServer, tmp_path: Path, digits_model: StoredModel) -> Job:
    np.save(tmp_path / "images.npy", np.resize(pictures.digits(500), (IMAGES, 28, 28)))
    return submit(
        Jobs(server.client), tmp_path / "images.npy", tmp_path / "out", digits_model.tag, 100
    )


def restart(server: RedisServer) -> None:
    server.process.kill()
    server.process.wait()
    server.start_again()


def pause(server: RedisServer) -> None:
    server.process.send_signal(signal.SIGSTOP)
    threading.Event().wait(PAUSE_SECONDS)
    server.process.send_signal(signal.SIGCONT)


def become_a_replica_for_a_while(server: RedisServer) -> None:
    """Make Redis a replica of an unreachable server: it refuses writes."""
    server.client.replicaof("127.0.0.1", "1")
    before = server.client.info("stats")["total_error_replies"]
    until(lambda: server.client.info("stats")["total_error_replies"] > before + 2)
    server.client.replicaof("NO", "ONE")


def run_a_long_script(server: RedisServer) -> None:
    def script() -> None:
        with suppress(RedisError):
            server.client.eval("while true do end", 0)

    thread = threading.Thread(target=script)
    thread.start()
    threading.Event().wait(1.0)

    def killed() -> bool:
        with suppress(RedisError):
            server.client.script_kill()
        return not thread.is_alive()

    until(killed)


@pytest.mark.parametrize(
    "trouble", [restart, pause, become_a_replica_for_a_while, run_a_long_script]
)
def test_a_worker_goes_on_by_itself_when_redis_does(
    server: RedisServer,
    job: Job,
    tmp_path: Path,
    trouble: Callable[[RedisServer], None],
) -> None:
    jobs = Jobs(server.client)
    with running(
        tmp_path / "log", "worker", LOUPE_REDIS_URL=server.url, LOUPE_LEASE_SECONDS=1
    ) as worker:
        until(lambda: jobs.get(job.id).done)
        trouble(server)
        until(lambda: jobs.get(job.id).state in {"done", "failed"})
        assert psutil.Process(worker.pid).is_running()
        worker.terminate()
        assert worker.wait(30) == 0

    assert (jobs.get(job.id).state, jobs.get(job.id).done) == ("done", IMAGES)


@pytest.mark.parametrize("options", [[], ["--processes", 2]])
def test_a_wrong_password_is_one_clear_error(tmp_path: Path, options: list[object]) -> None:
    with redis_server(tmp_path, requirepass="right") as server:
        ended = run("worker", *options, LOUPE_REDIS_URL=server.url.replace("right", "wrong"))

    assert ended.returncode == 1
    words = " ".join(ended.stderr.split())
    assert words.startswith("error: redis_unavailable: The Redis at redis://127.0.0.1:"), words
    assert "invalid username-password pair" in words
    assert "wrong" not in words
    assert "Traceback" not in words
