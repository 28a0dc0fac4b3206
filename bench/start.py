"""How soon the service answers, and what memory it holds."""

import http.client
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import psutil

from bench.pictures import find_images, save_pngs
from bench.report import Row
from loupe.ports import free_port
from loupe.processes import running, wait_until_ready
from loupe.store import StoredModel

STARTS = 3
REQUESTS = 10_000


def measure(model: StoredModel) -> Iterator[Row]:
    """Seconds from the start of the process to `/readyz`, and resident memory after many requests."""
    with tempfile.TemporaryDirectory() as folder:
        save_pngs(find_images(model, 1), Path(folder) / "png")
        png = next((Path(folder) / "png").iterdir()).read_bytes()
    starts = [_start(model, b"") for _ in range(STARTS - 1)] + [_start(model, png)]
    yield Row("service start to /readyz", f"{median(seconds for seconds, _ in starts):.2f} s")
    yield Row(f"service memory after {REQUESTS:,} requests", f"{starts[-1][1] / 2**20:,.0f} MiB")


def _start(model: StoredModel, png: bytes) -> tuple[float, int]:
    """Seconds to be ready, and bytes of resident memory after `REQUESTS` requests with a PNG, if there is one."""
    port = free_port()
    command = [sys.executable, "-m", "loupe.cli", "serve", "--port", str(port), "--model", model.tag]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        with running("loupe serve", command, log=Path(folder) / "log") as service:
            wait_until_ready(f"http://127.0.0.1:{port}/readyz", service)
            seconds = time.monotonic() - started
            if png:
                _post(port, png)
            return seconds, psutil.Process(service.process.pid).memory_info().rss


def _post(port: int, png: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for _ in range(REQUESTS):
        connection.request("POST", "/predict", png, {"Content-Type": "image/png"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"/predict answered {response.status}: {response.read().decode()}")
        response.read()
    connection.close()
