"""Whole image sets: one worker process beside a plain loop over the same container, and two workers beside one."""

import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from bench.loops import BATCH_SIZES, PlainLoop
from bench.pictures import find_images, save_pngs
from bench.report import Row, Target, at_least, median_ratio
from bench.turns import in_turns, per_second
from bench.workers import working
from loupe import idx
from loupe.images import UInt8Array
from loupe.store import StoredModel

IMAGES = 70_000  # as many as Fashion-MNIST has
TARS = 7
ROUNDS = 3
ARRAY_TARGET, FILES_TARGET = at_least(0.9), at_least(0.95)
WORKERS_TARGET = at_least(1.8)
LOUPE, LOOP = "Loupe", "plain loop"
ONE, TWO = "one worker", "two workers"


def measure(model: StoredModel) -> Iterator[Row]:
    """Images per second from the submission of a job to its end, with workers that wait for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = find_images(model, IMAGES)
        save_containers(images, folder)
        yield from _one_worker(model, folder, PlainLoop(model, images[: 4 * max(BATCH_SIZES)]))
        yield from _two_workers(model, folder)


def save_containers(images: UInt8Array, folder: Path) -> None:
    """Write the images as `images.npy`, `images-idx3-ubyte`, a folder `pngs`, `pngs.zip`, and archives in a folder `tars`."""
    np.save(folder / "images.npy", images)
    (folder / "images-idx3-ubyte").write_bytes(idx.encode(images))
    save_pngs(images, folder / "pngs")
    pngs = sorted((folder / "pngs").iterdir())
    with zipfile.ZipFile(folder / "pngs.zip", "w") as archive:
        for png in pngs:
            archive.write(png, png.name)
    (folder / "tars").mkdir()
    for number in range(TARS):
        with tarfile.open(folder / "tars" / f"pngs-{number:03d}.tar", "w") as tar:
            for png in pngs[number::TARS]:
                tar.add(png, png.name)


def _one_worker(model: StoredModel, folder: Path, loop: PlainLoop) -> Iterator[Row]:
    npy, idx_file, pngs, zipped = (folder / name for name in ("images.npy", "images-idx3-ubyte", "pngs", "pngs.zip"))
    tars = folder / "tars"
    comparisons: list[tuple[str, Path, Callable[[], object], Target]] = [
        (".npy images", npy, lambda: loop.score_npy(npy), ARRAY_TARGET),
        ("IDX images", idx_file, lambda: loop.score_idx(idx_file), ARRAY_TARGET),
        ("PNG files in a folder", pngs, lambda: loop.score_folder(pngs), FILES_TARGET),
        ("PNG files in a zip", zipped, lambda: loop.score_zip(zipped), FILES_TARGET),
        (f"PNG files in {TARS} tars", tars / "pngs-*.tar", lambda: loop.score_tars(tars), FILES_TARGET),
    ]
    with working(model, folder) as worker:
        for what, source, plain, target in comparisons:
            job = partial(worker.score, source)
            rates = in_turns(
                {LOOP: partial(per_second, IMAGES, plain), LOUPE: partial(per_second, IMAGES, job)}, ROUNDS
            )
            yield compared(f"{IMAGES:,} {what}", rates, LOUPE, LOOP, target)


def _two_workers(model: StoredModel, folder: Path) -> Iterator[Row]:
    with (
        working(model, folder, LOUPE_THREADS="1") as one,
        working(model, folder, count=2, LOUPE_THREADS="1") as two,
    ):
        for what, source in ((".npy images", folder / "images.npy"), ("PNG files in a folder", folder / "pngs")):
            runs = {name: partial(workers.score, source) for name, workers in ((ONE, one), (TWO, two))}
            rates = in_turns({name: partial(per_second, IMAGES, run) for name, run in runs.items()}, ROUNDS)
            yield compared(f"{IMAGES:,} {what}, {TWO} of one thread", rates, TWO, ONE, WORKERS_TARGET)


def compared(what: str, rates: dict[str, list[float]], mine: str, other: str, target: Target) -> Row:
    """A row of images per second from runs in turns."""
    ours, theirs = rates[mine], rates[other]
    peer = f"{other}\n{median(theirs):,.0f} images/s"
    return Row(what, f"{median(ours):,.0f} images/s", peer, median_ratio(ours, theirs), target)
