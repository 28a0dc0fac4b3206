"""Bulk scoring as users notice it: waiting times, recovery from a killed worker, and memory."""

import random
import tempfile
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import psutil

from bench.bulk.workers import Workers, wait_until, working
from bench.harness import Row, at_most, in_turns, median_ratio, seconds
from bench.inputs import find_images, make_photo
from loupe.drawing import encode_png
from loupe.images.spec import UInt8Array
from loupe.jobs import ENDED
from loupe.models.store import StoredModel
from worker.queue.submission import cancel

SHARD_IMAGES = 1024
STARTS = 20
START_TARGET = at_most(0.2)  # seconds
MAX_IDLE_SECONDS = 0.3  # before a submission, so that it meets any moment of the worker's polling
SMALL_SHARDS, BIG_SHARDS = 20, 200
QUEUE_ROUNDS = 3
QUEUE_TARGET = at_most(2.5)
ALONE, BEHIND = "alone", "behind a big job"
KILLS = 3
KILL_TARGET = at_most(5)  # seconds
KILLED_SHARD_IMAGES = 300_000  # more than a worker of one thread scores before its lease expires

MEMORY_IMAGES = 70_000
PHOTOS, DISTINCT_PHOTOS = 1_000, 20  # each photo appears fifty times, as hard links
SMALL_MB, LARGE_MB = 350, 500  # 10^6 bytes; a decoded photo of 12 megapixels takes 36
MEMORY_POLL_SECONDS = 0.01


def measure(model: StoredModel) -> Iterator[Row]:
    """Measure the start of a job, a small job behind a big one, and a killed worker."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with working(model, folder) as worker:
            yield _measure_start(worker, _save_array(model, folder, 4 * SHARD_IMAGES))
            small = _save_array(model, folder, SMALL_SHARDS * SHARD_IMAGES)
            big = _save_array(model, folder, BIG_SHARDS * SHARD_IMAGES)
            yield _measure_queue(worker, small, big)
        source = _save_array(model, folder, KILLED_SHARD_IMAGES)
        times = [_recovery_seconds(model, folder, source) for _ in range(KILLS)]
        what = "kill -9 of a worker, another one idle: time until its shard runs again"
        figures = f"{median(times):.2f} s, at most {max(times):.2f} s"
        yield Row(what, figures, ratio=max(times), target=KILL_TARGET)


def _save_array(model: StoredModel, folder: Path, images: int) -> Path:
    path = folder / f"{images}.npy"
    np.save(path, find_images(model, images))
    return path


def _measure_start(worker: Workers, source: Path) -> Row:
    """Time from the submission, which checks source and model, to the claim of the first shard."""
    worker.score(source)  # loads the model
    times = []
    for _ in range(STARTS):
        time.sleep(random.uniform(0, MAX_IDLE_SECONDS))
        started = time.perf_counter()
        job = worker.submit(source, SHARD_IMAGES)
        wait_until(partial(worker.holder, job))
        times.append(time.perf_counter() - started)
        worker.finish(job)
    figures = f"{median(times):.3f} s, at most {max(times):.3f} s"
    what = "submission to first shard, idle worker: seconds"
    return Row(what, figures, ratio=median(times), target=START_TARGET)


def _measure_queue(worker: Workers, small: Path, big: Path) -> Row:
    """Time a small job alone, and submitted while a big one runs."""

    def score() -> float:
        return seconds(lambda: worker.finish(worker.submit(small, SHARD_IMAGES)))

    def score_behind() -> float:
        job = worker.submit(big, SHARD_IMAGES)
        wait_until(partial(worker.holder, job))
        duration = score()
        cancel(worker.jobs, job.id)
        worker.finish(job)
        return duration

    times = in_turns({ALONE: score, BEHIND: score_behind}, QUEUE_ROUNDS)
    what = f"a job of {SMALL_SHARDS} shards behind one of {BIG_SHARDS}, one worker"
    peer = f"{ALONE}\n{median(times[ALONE]):.2f} s"
    ratio = median_ratio(times[BEHIND], times[ALONE])
    return Row(what, f"{median(times[BEHIND]):.2f} s", peer, ratio, QUEUE_TARGET)


def _recovery_seconds(model: StoredModel, folder: Path, source: Path) -> float:
    """Return the time from the kill of a worker to the claim of its shard by another one."""
    with working(model, folder, count=2, pinned=True) as workers:
        job = workers.submit(source, shard_images=KILLED_SHARD_IMAGES)  # one shard
        wait_until(partial(workers.holder, job))
        first = str(workers.holder(job))
        time.sleep(random.uniform(0, 1))  # reaches any moment between two heartbeats
        workers.kill(first)
        duration = seconds(lambda: wait_until(lambda: workers.holder(job) not in {None, first}))
        cancel(workers.jobs, job.id)
        workers.finish(job)
        return duration


def measure_memory(model: StoredModel) -> Iterator[Row]:
    """Measure the peak memory of a new worker process for different sources."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = find_images(model, MEMORY_IMAGES)
        npy, archive, photos = folder / "images.npy", folder / "images.zip", folder / "photos"
        np.save(npy, images)
        yield _measure_peak(model, npy, f"{MEMORY_IMAGES:,} .npy images", SMALL_MB)
        _save_zip(images, archive)
        yield _measure_peak(model, archive, f"{MEMORY_IMAGES:,} PNG files in a zip", SMALL_MB)
        _save_photos(photos)
        yield _measure_peak(model, photos, f"{PHOTOS:,} photos of 12 megapixels", LARGE_MB)


def _save_zip(images: UInt8Array, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number:06d}.png", encode_png(image))


def _save_photos(folder: Path) -> None:
    folder.mkdir()
    for number in range(PHOTOS):
        path = folder / f"{number:04}.jpg"
        if number < DISTINCT_PHOTOS:
            path.write_bytes(make_photo(number))
        else:
            path.hardlink_to(folder / f"{number % DISTINCT_PHOTOS:04}.jpg")


def _measure_peak(model: StoredModel, source: Path, what: str, limit_mb: int) -> Row:
    with working(model, source.parent) as worker:
        process, peak_bytes = psutil.Process(next(iter(worker.programs))), 0
        job = worker.submit(source)
        while worker.jobs.get(job.id).state not in ENDED:
            peak_bytes = max(peak_bytes, process.memory_info().rss)
            time.sleep(MEMORY_POLL_SECONDS)
        worker.finish(job)
    peak_mb = peak_bytes / 1e6
    ratio = peak_mb / limit_mb
    peer = f"limit\n{limit_mb} MB"
    return Row(f"peak memory for {what}", f"{peak_mb:,.0f} MB", peer, ratio, at_most(1.0))
