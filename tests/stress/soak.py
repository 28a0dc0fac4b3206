"""`python -m tests.stress.soak [--minutes N] [--model TAG]`: load the service for a long time.

Memory must not grow, and no request may fail.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import psutil

from bench import inputs
from bench.harness import Row, at_most, run_program, show
from bench.inputs import MODEL_HELP, Post, benchmark_model, find_images, make_photo
from bench.service.open_loop import Connection, run_fast
from bench.service.servers import LOUPE, RunningServer, serving
from loupe.models.store import StoredModel

MINUTES = 30.0
SAMPLE_SECONDS = 5.0  # between samples of memory
WARM_UP = 0.1  # share of the time before memory counts
ENDS = 0.05  # share of samples whose median is the memory after warm-up, and at the end
TARGET_MIB = 10
PNG_CLIENTS = 8
IMAGES = 256  # per batch request
METRICS = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True)
class Load:
    """A client that repeats one request.

    Attributes:
        name: The name for the list of errors.
        request: The encoded request.
        pause_seconds: From a response to the next request.
        status: The expected status.
        keeps_connection: Whether all requests use one connection.
    """

    name: str
    request: bytes
    pause_seconds: float
    status: int = 200
    keeps_connection: bool = True


@dataclass
class Report:
    """Memory samples in bytes, the number of requests, and errors by description."""

    memory: list[int] = field(default_factory=list)
    requests: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Soak the service. Return exit code 1 if a target is missed, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.soak", description="Load the service for a long time."
    )
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES:g}")
    parser.add_argument("--model", metavar="TAG", help=MODEL_HELP)
    arguments = parser.parse_args()
    minutes: float = arguments.minutes

    def run() -> int:
        with benchmark_model(arguments.model) as model:
            print(f"Soaking {model.tag} for {minutes:g} minutes.")
            with serving([LOUPE], model) as servers:
                report = run_fast(soak(servers[LOUPE], _loads(model), minutes * 60))
        rows = _rows(report)
        show(rows, "Results of the soak test")
        return int(any(row.failed for row in rows))

    return run_program(run)


def _loads(model: StoredModel) -> list[Load]:
    images = find_images(model, IMAGES)
    png, json = inputs.png_post(images[0]).encoded(), inputs.json_post(images[0]).encoded()
    npy, npy_to_json = (
        inputs.npy_post(images, accept=accept).encoded() for accept in (inputs.NPY, inputs.JSON)
    )
    invalid = Post("/predict", b"not an image", {"Content-Type": inputs.PNG})
    loads = [Load("PNG", inputs.png_post(image).encoded(), 0.01) for image in images[:PNG_CLIENTS]]
    return [
        *loads,
        Load("PNG on a new connection", png, 0.02, keeps_connection=False),
        Load("PNG in JSON", json, 0.01),
        Load(".npy to .npy", npy, 0.1),
        Load(".npy to JSON", npy_to_json, 0.1),
        Load("binary tensors", inputs.binary_tensor_post(images, model).encoded(), 0.1),
        Load("photo", inputs.photo_post(make_photo()).encoded(), 1.0),
        Load("invalid image", invalid.encoded(), 0.05, status=422),
        Load("metrics", METRICS, 5.0, keeps_connection=False),
    ]


async def soak(server: RunningServer, loads: Sequence[Load], seconds: float) -> Report:
    """Run all loads concurrently, and sample the server's memory."""
    report, start = Report(), time.monotonic()
    end = start + seconds
    tasks = [asyncio.create_task(_repeat(server.port, load, end, report)) for load in loads]
    process = psutil.Process(server.program.process.pid)
    while (passed := time.monotonic() - start) < seconds:
        server.program.check()
        if passed >= WARM_UP * seconds:
            report.memory.append(process.memory_info().rss)
        await asyncio.sleep(min(SAMPLE_SECONDS, seconds / 20))
    await asyncio.gather(*tasks)
    return report


async def _repeat(port: int, load: Load, end: float, report: Report) -> None:
    connection = await Connection.open(port)
    while time.monotonic() < end:
        try:
            status = (await connection.send(load.request)).status
            if status != load.status:
                report.errors[f"{load.name}: {status}"] += 1
        except ConnectionError:
            report.errors[f"{load.name}: no response"] += 1
            connection = await Connection.open(port)
        report.requests += 1
        await asyncio.sleep(load.pause_seconds)
        if not load.keeps_connection:
            connection.close()
            connection = await Connection.open(port)
    connection.close()


def _rows(report: Report) -> list[Row]:
    count = max(1, round(len(report.memory) * ENDS))
    mib = [size / 2**20 for size in report.memory]
    start, end = median(mib[:count]), median(mib[-count:])
    memory = f"{end:,.1f} MiB, at most {max(mib):,.1f}"
    peer = f"after warm-up\n{start:,.1f} MiB"
    errors = "\n".join(f"{count:,} × {name}" for name, count in report.errors.most_common())
    total = report.errors.total()
    return [
        Row("memory growth, MiB", memory, peer, end - start, at_most(TARGET_MIB)),
        Row(f"errors in {report.requests:,} requests", errors or "none", "—", total, at_most(0)),
    ]


if __name__ == "__main__":
    sys.exit(main())
