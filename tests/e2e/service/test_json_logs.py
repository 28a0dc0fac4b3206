"""JSON logs: every line on standard error is an object."""

import io
import json
import signal
import socket
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from loupe.models.store import StoredModel
from tests.support.programs import run, running, serving, until

# OpenBLAS prints when NumPy loads it, and Python when it crashes.
LOUD = {"LOUPE_LOG_FORMAT": "json", "OPENBLAS_VERBOSE": 2, "PYTHONFAULTHANDLER": 1}


@pytest.fixture
def damaged_tiff() -> bytes:
    """Return a TIFF that libtiff complains about on standard error."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "TIFF", compression="tiff_lzw")
    data = bytearray(file.getvalue())
    data[300:-300] = b"\xff" * len(data[300:-300])
    return bytes(data)


def objects_in(text: str) -> list[dict[str, str]]:
    lines = [json.loads(line) for line in text.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    return lines


def test_service_logs_what_libraries_print_and_its_own_crash(
    tmp_path: Path, digits_model: StoredModel, damaged_tiff: bytes
) -> None:
    log = tmp_path / "log"
    with serving(log, **LOUD, LOUPE_MODEL=digits_model.tag, LOUPE_DATA_DIR=tmp_path) as service:
        answer = httpx.post(f"{service.url}/predict", content=damaged_tiff)
        assert answer.status_code == 422
        service.process.send_signal(signal.SIGABRT)
        service.process.wait()
        until(lambda: "Fatal Python error" in log.read_text())
        until(lambda: log.read_text().endswith("\n"))

    messages = [line["message"] for line in objects_in(log.read_text())]
    assert any("not yet in table" in message for message in messages)
    assert any("listening on" in message for message in messages)


def test_worker_logs_what_decoders_print(
    tmp_path: Path, digits_model: StoredModel, damaged_tiff: bytes
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "images" / f"{number}.tiff").write_bytes(damaged_tiff)
    variables = {"LOUPE_DATA_DIR": tmp_path / "data", **LOUD}
    command = ["score", tmp_path / "images", "--out", tmp_path / "out", "--detach"]
    with running(tmp_path / "log", "worker", **variables) as worker:
        submitted = run(*command, "--model", digits_model.tag, LOUPE_DATA_DIR=tmp_path / "data")
        assert submitted.returncode == 0, submitted.stderr
        until((tmp_path / "out" / "_SUCCESS").exists)
        worker.terminate()
        assert worker.wait(30) == 0

    lines = objects_in((tmp_path / "log").read_text())
    assert sum("not yet in table" in line["message"] for line in lines) == 3
    assert any(line["logger"].startswith("worker.") for line in lines)


@pytest.mark.parametrize("processes", [1, 2])
def test_error_that_ends_a_program_is_one_line(tmp_path: Path, processes: int) -> None:
    url = "redis://127.0.0.1:1/0"
    ended = run("worker", "--processes", processes, **LOUD, LOUPE_REDIS_URL=url)

    assert ended.returncode == 1
    errors = [line for line in objects_in(ended.stderr) if "redis_unavailable" in line["message"]]
    assert len(errors) == 1


def test_service_that_cannot_start_says_so_in_one_line(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("serve", "--port", port, "--model", digits_model.tag, **LOUD)

    assert ended.returncode == 1
    assert str(port) in objects_in(ended.stderr)[-1]["message"]
