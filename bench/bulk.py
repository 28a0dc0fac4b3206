"""Whole image sets: one worker process beside a plain loop over the same images."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
from PIL import Image

from bench.pictures import find_images, save_pngs
from bench.report import Row, at_least, median_ratio
from loupe.errors import JobFailed
from loupe.images import Float32Array, UInt8Array
from loupe.processes import running
from loupe.redis_server import open_redis
from loupe.settings import Settings
from loupe.store import ONNX_FILE, StoredModel
from worker.jobs import ENDED, Jobs
from worker.submission import submit

ARRAY_IMAGES = 70_000
PNG_FILES = 10_000
ROUNDS = 5
TARGET = at_least(0.85)
LOOP_BATCH_SIZES = (32, 128, 512, 2048)
POLL_SECONDS = 0.01


class PlainLoop:
    """What a short script would do: ONNX Runtime with its default options, at the batch size that suits it best."""

    def __init__(self, model: StoredModel, sample: UInt8Array) -> None:
        self._session = ort.InferenceSession(model.folder / ONNX_FILE, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.batch_size = min(LOOP_BATCH_SIZES, key=lambda size: _seconds(lambda: self._run(sample, size)))

    def score_array(self, path: Path) -> Float32Array:
        """Probabilities of the images in an `.npy` file, float32 `(n, classes)`."""
        return self._run(np.load(path, mmap_mode="r"), self.batch_size)

    def score_pngs(self, folder: Path) -> Float32Array:
        """Probabilities of the PNG files in a folder, float32 `(n, classes)`."""
        names = sorted(os.listdir(folder))  # noqa: PTH208 - twice as fast as pathlib
        answers = []
        for start in range(0, len(names), self.batch_size):
            batch = names[start : start + self.batch_size]
            images = np.stack([np.asarray(Image.open(f"{folder}/{name}").convert("L")) for name in batch])
            answers.append(self._session.run(None, {self._input: images})[0])
        return np.concatenate(answers)

    def _run(self, images: UInt8Array, batch_size: int) -> Float32Array:
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return np.concatenate([self._session.run(None, {self._input: batch})[0] for batch in batches])


def measure(model: StoredModel) -> Iterator[Row]:
    """Images per second from the submission of a job to its end, with a worker that waits for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = find_images(model, ARRAY_IMAGES)
        array, pngs = folder / "images.npy", folder / "pngs"
        np.save(array, images)
        save_pngs(images[:PNG_FILES], pngs)
        loop = PlainLoop(model, images[: 4 * max(LOOP_BATCH_SIZES)])
        with _worker(model, folder) as score:
            yield _compare(".npy images", ARRAY_IMAGES, lambda: score(array), lambda: loop.score_array(array))
            yield _compare("PNG files", PNG_FILES, lambda: score(pngs), lambda: loop.score_pngs(pngs))


@contextmanager
def _worker(model: StoredModel, folder: Path) -> Iterator[Callable[[Path], None]]:
    """A worker with a queue of its own, and a function that has a source scored by it."""
    settings = Settings(data_dir=folder / "data")
    command = [sys.executable, "-m", "loupe.cli", "worker"]
    environment = {"LOUPE_DATA_DIR": str(settings.home)}
    with (
        open_redis(settings) as redis,
        running("loupe worker", command, environment=environment, log=folder / "worker.log") as worker,
    ):
        jobs = Jobs(redis)

        def score(source: Path) -> None:
            output = Path(tempfile.mkdtemp(dir=folder))
            job = submit(jobs, source, output, model.tag, settings.shard_images)
            while job.state not in ENDED:
                worker.check()
                time.sleep(POLL_SECONDS)
                job = jobs.get(job.id)
            if job.state != "done":
                raise JobFailed(job.id, str(job.error))

        yield score


def _compare(what: str, images: int, job: Callable[[], object], loop: Callable[[], object]) -> Row:
    job()  # warms the worker and the page cache
    loop()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(images / _seconds(loop))
        ours.append(images / _seconds(job))
    peer = f"plain loop\n{median(theirs):,.0f} images/s"
    return Row(f"{images:,} {what}", f"{median(ours):,.0f} images/s", peer, median_ratio(ours, theirs), TARGET)


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
