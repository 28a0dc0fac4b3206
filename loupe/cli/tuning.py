"""The command `loupe models tune`: measures which settings suit a model on this machine."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from loupe import __version__
from loupe.errors import Conflict, NotWritable
from loupe.terminal import Column, console, print_table

if TYPE_CHECKING:
    from loupe.models.engines.engine import Engine
    from loupe.models.store import StoredModel

RUN_SIZES = (1, 8, 32, 64, 128, 256, 512)  # images
ROUNDS = 3  # in turns, so that other load meets all sizes alike
SECONDS = 0.1  # of one round of one size
ENOUGH = 0.95  # of the highest rate: more threads or larger runs only take longer


@dataclass(frozen=True)
class Speed:
    """The measured speed of a model.

    Attributes:
        threads: Runs at the same time, each on one core.
        run_images: Images of one run.
        rate: Images per second.
    """

    threads: int
    run_images: int
    rate: float

    @property
    def milliseconds(self) -> float:
        """The duration of one run."""
        return 1000 * self.threads * self.run_images / self.rate


def tune(
    tag: Annotated[
        str | None,
        typer.Argument(metavar="TAG", help="The model; by default the one that answers."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the settings into this new file, as for .env."),
    ] = None,
) -> None:
    """Measure numbers of threads and sizes of runs, and recommend settings for this machine.

    It takes some seconds, with the engine of `LOUPE_ENGINE`. Stop other programs first.
    """
    from loupe.models.engines.loading import load_engine
    from loupe.models.store import find_model
    from loupe.settings import load_settings

    if out is not None:
        _check(out)
    settings = load_settings()
    model = find_model(tag or settings.default_tag)
    speeds = list(measure(model, load_engine(model, settings.engine, threads=1)))
    best = recommended(speeds)
    _print(speeds, best)
    lines = [
        f"LOUPE_ENGINE={settings.engine}",
        f"LOUPE_THREADS={best.threads}",
        f"LOUPE_MAX_BATCH_SIZE={best.run_images}",
    ]
    console.print()
    console.print(f"recommended for {model.tag} on this machine:")
    for line in lines:
        console.print(f"  {line}")
    if out is not None:
        about = f"# Measured by Loupe {__version__} with {model.tag}"
        _write(out, "\n".join([about, *lines, ""]))


def measure(model: "StoredModel", engine: "Engine") -> Iterator[Speed]:
    """Yield how fast a model runs, for each number of threads and size of runs."""
    from loupe.models.engines.engine import run_size
    from loupe.runtime.cores import available_cores

    cores = available_cores()
    threads = [*takewhile(lambda count: count < cores, (2**n for n in range(cores))), cores]
    sizes = sorted({run_size(model.card.input, size) for size in RUN_SIZES})
    rates: dict[tuple[int, int], list[float]] = {
        (count, size): [] for count in threads for size in sizes
    }
    for _ in range(ROUNDS):
        for (count, size), found in rates.items():
            found.append(_rate(engine, model, count, size))
    for (count, size), found in rates.items():
        yield Speed(count, size, median(found))


def recommended(speeds: list[Speed]) -> Speed:
    """Return the fastest way, or one that is nearly as fast with fewer threads or smaller runs."""
    fastest = max(speeds, key=lambda speed: speed.rate)
    nearly = [speed for speed in speeds if speed.rate >= ENOUGH * fastest.rate]
    return min(nearly, key=lambda speed: (speed.threads, speed.run_images))


def _rate(engine: "Engine", model: "StoredModel", threads: int, size: int) -> float:
    """Return the images per second of all threads together."""
    images = model.card.input.zeros(size)
    engine.run(images)  # allocates its memory
    started = time.perf_counter()

    def run(_: int) -> int:
        runs = 0
        while not runs or time.perf_counter() < started + SECONDS:
            engine.run(images)
            runs += 1
        return runs

    with ThreadPoolExecutor(threads) as pool:
        runs = sum(pool.map(run, range(threads)))
    return runs * size / (time.perf_counter() - started)


def _print(speeds: list[Speed], best: Speed) -> None:
    rates = [f"{speed.rate:,.0f}" for speed in speeds]
    durations = [f"{speed.milliseconds:.2f}" for speed in speeds]
    columns = [
        Column("threads", [str(speed.threads) for speed in speeds], justify="right"),
        Column("images\nof a run", [str(speed.run_images) for speed in speeds], justify="right"),
        Column("images\nper second", rates, justify="right"),
        Column("ms\nof a run", durations, justify="right"),
        Column("", ["recommended" if speed is best else "" for speed in speeds], rank=1),
    ]
    print_table(columns)


def _check(path: Path) -> None:
    """Find out that a file cannot be written before anything is measured."""
    if path.exists():
        raise _exists(path)
    if not path.absolute().parent.is_dir():
        raise NotWritable(f"There is no folder '{path.parent}' for '{path.name}'.")


def _write(path: Path, text: str) -> None:
    from loupe.files import atomic_path

    try:
        with atomic_path(path, new=True) as temporary:
            temporary.write_text(text)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        raise NotWritable(f"'{path}' cannot be written ({error.strerror}).") from error


def _exists(path: Path) -> Conflict:
    return Conflict(f"'{path}' exists. Choose another name: its settings may be in use.")
