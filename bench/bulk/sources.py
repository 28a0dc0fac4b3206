"""Image sets of every format: one worker compared with a plain loop, and two workers with one."""

import io
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import onnxruntime as ort
from PIL import Image

from bench.bulk.workers import working
from bench.harness import Row, Target, at_least, compare_rates, in_turns, per_second, seconds
from bench.inputs import find_images, save_pngs
from loupe.images.arrays import idx
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.store import ONNX_FILE, StoredModel

IMAGES = 70_000  # as many as Fashion-MNIST has
TARS = 7
ROUNDS = 3
BATCH_SIZES = (32, 128, 512, 2048)  # of the plain loop; it takes the fastest
ARRAY_TARGET, FILES_TARGET = at_least(0.92), at_least(0.95)
WORKERS_TARGET = at_least(1.8)
LOUPE, LOOP = "Loupe", "plain loop"
ONE, TWO = "one worker", "two workers"


def measure(model: StoredModel) -> Iterator[Row]:
    """Measure images per second from submission to the end of a job, with idle workers."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = find_images(model, IMAGES)
        _save_sources(images, folder)
        loop = PlainLoop(model, images[: 4 * max(BATCH_SIZES)])
        yield from _measure_one_worker(model, folder, loop)
        yield from _measure_two_workers(model, folder)


def _save_sources(images: UInt8Array, folder: Path) -> None:
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


def _measure_one_worker(model: StoredModel, folder: Path, loop: "PlainLoop") -> Iterator[Row]:
    npy, idx_file, tars = (folder / name for name in ("images.npy", "images-idx3-ubyte", "tars"))
    pngs, archive = folder / "pngs", folder / "pngs.zip"
    comparisons: list[tuple[str, Path, Callable[[], object], Target]] = [
        (".npy images", npy, lambda: loop.score_npy(npy), ARRAY_TARGET),
        ("IDX images", idx_file, lambda: loop.score_idx(idx_file), ARRAY_TARGET),
        ("PNG files in a folder", pngs, lambda: loop.score_folder(pngs), FILES_TARGET),
        ("PNG files in a zip", archive, lambda: loop.score_zip(archive), FILES_TARGET),
        (f"PNG files in {TARS} tars", tars / "*.tar", lambda: loop.score_tars(tars), FILES_TARGET),
    ]
    with working(model, folder) as worker:
        for what, source, plain, target in comparisons:
            runs: dict[str, Callable[[], object]]
            runs = {LOOP: plain, LOUPE: partial(worker.score, source)}
            yield _compare(f"{IMAGES:,} {what}", runs, LOUPE, LOOP, target)


def _measure_two_workers(model: StoredModel, folder: Path) -> Iterator[Row]:
    sources = ((".npy images", "images.npy"), ("PNG files in a folder", "pngs"))
    with (
        working(model, folder, pinned=True) as one,
        working(model, folder, count=2, pinned=True) as two,
    ):
        for kind, name in sources:
            what = f"{IMAGES:,} {kind}, {TWO} with a core each"
            runs = {ONE: partial(one.score, folder / name), TWO: partial(two.score, folder / name)}
            yield _compare(what, runs, TWO, ONE, WORKERS_TARGET)


def _compare(
    what: str, runs: Mapping[str, Callable[[], object]], ours: str, theirs: str, target: Target
) -> Row:
    rated = {name: partial(per_second, IMAGES, run) for name, run in runs.items()}
    return compare_rates(what, in_turns(rated, ROUNDS), ours, theirs, target)


class PlainLoop:
    """A script's loop over an image set: Pillow, and ONNX Runtime with default options.

    All methods return probabilities, float32 `(n, classes)`.

    Args:
        model: The model that scores.
        sample: uint8 `(n, *shape)` of the model, to find the fastest batch size with.
    """

    def __init__(self, model: StoredModel, sample: UInt8Array) -> None:
        path = model.folder / ONNX_FILE
        self._session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._mode = "L" if model.card.input.channels == 1 else "RGB"
        durations = {size: seconds(partial(self._score, sample, size)) for size in BATCH_SIZES}
        self._batch_size = min(durations, key=durations.__getitem__)

    def score_npy(self, path: Path) -> Float32Array:
        """Score the images of an `.npy` file."""
        return self._score(np.load(path, mmap_mode="r"), self._batch_size)

    def score_idx(self, path: Path) -> Float32Array:
        """Score the images of an IDX file."""
        return self._score(idx.read(path), self._batch_size)

    def score_folder(self, folder: Path) -> Float32Array:
        """Score the picture files of a folder."""
        names = sorted(os.listdir(folder))  # noqa: PTH208 - twice as fast as pathlib
        return self._score_files(f"{folder}/{name}" for name in names)

    def score_zip(self, path: Path) -> Float32Array:
        """Score the picture files of a zip archive."""
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return self._score_files(io.BytesIO(archive.read(name)) for name in names)

    def score_tars(self, folder: Path) -> Float32Array:
        """Score the picture files of a folder's tar archives."""
        return self._score_files(_read_tars(sorted(folder.iterdir())))

    def _score(self, images: UInt8Array, size: int) -> Float32Array:
        batches = (images[start : start + size] for start in range(0, len(images), size))
        return np.concatenate([self._run(batch) for batch in batches])

    def _score_files(self, files: Iterable[str | IO[bytes]]) -> Float32Array:
        images = (np.asarray(Image.open(file).convert(self._mode)) for file in files)
        batches = iter(lambda: list(islice(images, self._batch_size)), [])
        return np.concatenate([self._run(np.stack(batch)) for batch in batches])

    def _run(self, images: UInt8Array) -> Float32Array:
        probabilities: Float32Array = self._session.run(None, {self._input: images})[0]
        return probabilities


def _read_tars(paths: Iterable[Path]) -> Iterator[IO[bytes]]:
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield file
