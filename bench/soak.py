"""`python -m bench.soak [--minutes N]`: half an hour of everything at once, after which the service is to be as it was."""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil

from bench import posts
from bench.__main__ import exit_code
from bench.batches import is_taken
from bench.connection import Connection
from bench.open_loop import run
from bench.peers import LOUPE, Serving, serving
from bench.pictures import find_images, photo
from bench.report import Row, at_most, show
from loupe.store import StoredModel, find_model

MINUTES = 30.0
SAMPLE_SECONDS = 5.0  # between looks at the memory
WARM_UP = 0.1  # of the time, before the memory counts
ENDS = 0.05  # of the looks after it, whose median is the memory after warm-up, and at the end
TARGET_MIB = 10
PNG_CALLERS = 8
IMAGES = 256  # of a bulk request
METRICS = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@dataclass(frozen=True)
class Caller:
    """Who makes one kind of request again and again.

    Attributes:
        what: Its name in the list of errors.
        request: As HTTP has it.
        pause_seconds: From an answer to the next request.
        status: What the answer is to have.
        stays: Whether it keeps its connection, or makes a new one for each request.
    """

    what: str
    request: bytes
    pause_seconds: float
    status: int = 200
    stays: bool = True


@dataclass
class Seen:
    """What was seen: bytes of memory after the warm-up, answers, and those that were not as they should be."""

    memory: list[int] = field(default_factory=list)
    answers: int = 0
    errors: Counter[str] = field(default_factory=Counter)


def main() -> int:
    """Soak the service; exit code 1 if there is no model, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Mixed load on Loupe for a long time.")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"default: {MINUTES:g}")
    minutes: float = parser.parse_args().minutes

    def soak() -> int:
        model = find_model()
        print(f"soaking with {model.tag} for {minutes:g} minutes")
        with tempfile.TemporaryDirectory() as folder, serving([LOUPE], model, Path(folder)) as programs:
            callers = _callers(programs[LOUPE], model)
            show(_rows(run(_soak(programs[LOUPE], callers, minutes * 60))))
        return 0

    return exit_code(soak)


def _callers(program: Serving, model: StoredModel) -> list[Caller]:
    images = find_images(model, IMAGES)
    no_picture = posts.Post("/predict", b"no picture", {"Content-Type": posts.PNG})
    tensors = posts.binary_tensor(images, model.tag)
    callers = [Caller("PNG", posts.png(images[number]).encoded(), 0.01) for number in range(PNG_CALLERS)]
    callers += [
        Caller("PNG on a new connection", posts.png(images[0]).encoded(), 0.02, stays=False),
        Caller("PNG in JSON", posts.png_in_json(images[0]).encoded(), 0.01),
        Caller(".npy to .npy", posts.npy(images, accept=posts.NPY).encoded(), 0.1),
        Caller(".npy to JSON", posts.npy(images, accept=posts.JSON).encoded(), 0.1),
        Caller("photo", posts.jpeg(photo()).encoded(), 1.0),
        Caller("no picture", no_picture.encoded(), 0.05, status=422),
        Caller("metrics", METRICS, 5.0, stays=False),
    ]
    if is_taken("Open Inference Protocol", program.url, tensors):
        callers.append(Caller("binary tensors", tensors.encoded(), 0.1))
    return callers


async def _soak(program: Serving, callers: Sequence[Caller], seconds: float) -> Seen:
    seen = Seen()
    begun = time.monotonic()
    calling = [asyncio.create_task(_call(program.port, caller, begun + seconds, seen)) for caller in callers]
    process = psutil.Process(program.program.process.pid)
    while (passed := time.monotonic() - begun) < seconds:
        program.program.check()
        if passed >= WARM_UP * seconds:
            seen.memory.append(process.memory_info().rss)
        await asyncio.sleep(min(SAMPLE_SECONDS, seconds / 20))
    await asyncio.gather(*calling)
    return seen


async def _call(port: int, caller: Caller, until: float, seen: Seen) -> None:
    connection = await Connection.open(port)
    while time.monotonic() < until:
        try:
            status = (await connection.ask(caller.request)).status
            if status != caller.status:
                seen.errors[f"{caller.what}: {status}"] += 1
        except ConnectionError:
            seen.errors[f"{caller.what}: no answer"] += 1
            connection = await Connection.open(port)
        seen.answers += 1
        await asyncio.sleep(caller.pause_seconds)
        if not caller.stays:
            connection.close()
            connection = await Connection.open(port)
    connection.close()


def _rows(seen: Seen) -> list[Row]:
    few = max(1, round(len(seen.memory) * ENDS))
    mib = [size / 2**20 for size in seen.memory]
    warm, end = median(mib[:few]), median(mib[-few:])
    peer = f"after warm-up\n{warm:,.1f} MiB"
    errors = "\n".join(f"{count:,} × {what}" for what, count in seen.errors.most_common())
    return [
        Row(
            "memory, MiB more or less",
            f"{end:,.1f} MiB, at most {max(mib):,.1f}",
            peer,
            end - warm,
            at_most(TARGET_MIB),
        ),
        Row(f"errors in {seen.answers:,} answers", errors or "none", ratio=seen.errors.total(), target=at_most(0)),
    ]


if __name__ == "__main__":
    sys.exit(main())
