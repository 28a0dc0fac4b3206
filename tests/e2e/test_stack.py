"""`loupe up`: everything with one command, and nothing left of it afterwards."""

import os
import signal
import time
from pathlib import Path
from subprocess import Popen

import httpx
import numpy as np
import psutil
import pytest

from loupe.models.store import StoredModel
from loupe.runtime.processes import GRACE_SECONDS
from tests.support import pictures
from tests.support.programs import descendants, free_port, run, running, until


def ready(process: Popen[bytes], log: Path, port: int) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"loupe up ended with {process.returncode}: {log.read_text()}")
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_up_predicts_and_scores_and_leaves_nothing_running(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    port, log = free_port(), tmp_path / "log"
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    np.save(tmp_path / "images.npy", pictures.digits(30))
    with running(log, "up", "--port", port, **settings) as up:
        until(lambda: ready(up, log, port))
        answer = httpx.post(
            f"http://127.0.0.1:{port}/predict", content=pictures.png(pictures.digits(1)[0])
        )
        scored = run("score", tmp_path / "images.npy", "--out", tmp_path / "out", **settings)
        children = descendants(up.pid)
        os.kill(up.pid, signal.SIGINT)

        assert up.wait(50) == 0
    assert answer.json()["model"] == digits_model.tag
    assert "30 scored, errors: 0" in scored.stdout, scored.stderr
    assert len(children) >= 2
    assert not [child for child in children if psutil.pid_exists(child.pid)]
    assert "Traceback" not in log.read_text()


def test_nothing_is_left_of_up_when_it_is_killed(tmp_path: Path, digits_model: StoredModel) -> None:
    port, log = free_port(), tmp_path / "log"
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    with running(log, "up", "--port", port, **settings) as up:
        until(lambda: ready(up, log, port))
        children = descendants(up.pid)
        up.kill()
        assert len(children) >= 3

        until(lambda: not [child for child in children if psutil.pid_exists(child.pid)])


def test_up_ends_and_says_so_when_one_of_its_programs_dies(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    port, log = free_port(), tmp_path / "log"
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    with running(log, "up", "--port", port, **settings) as up:
        until(lambda: ready(up, log, port))
        children = descendants(up.pid)
        (worker,) = [child for child in children if child.cmdline()[-1] == "worker"]
        worker.kill()

        assert up.wait(50) == 1
    assert not [child for child in children if psutil.pid_exists(child.pid)]
    assert log.read_text().endswith(
        "error: program_failed: loupe worker ended with exit code -9.\n"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_up_drains_after_sigterm_unless_it_is_interrupted(
    number: signal.Signals, tmp_path: Path, digits_model: StoredModel
) -> None:
    """The service drains for longer than its programs have to stop otherwise."""
    port, log = free_port(), tmp_path / "log"
    settings = {
        "LOUPE_DATA_DIR": tmp_path / "data",
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_DRAIN_SECONDS": 300,
        "LOUPE_SHUTDOWN_TIMEOUT_SECONDS": 1,
    }
    url = f"http://127.0.0.1:{port}"
    with running(log, "up", "--port", port, **settings) as up:
        until(lambda: ready(up, log, port))
        os.kill(up.pid, number)
        if number == signal.SIGTERM:
            until(lambda: httpx.get(f"{url}/readyz").status_code == 503)
            time.sleep(GRACE_SECONDS + 2)
            answer = httpx.get(f"{url}/models")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
            os.kill(up.pid, signal.SIGINT)

        assert up.wait(50) == 0
    assert "is killed" not in log.read_text()
    assert "Traceback" not in log.read_text()
