"""Memory of one worker process: what it takes at most, whatever it scores."""

import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from bench.pictures import find_images, photo
from bench.report import Row, at_most
from loupe.errors import JobFailed
from loupe.images import UInt8Array
from loupe.processes import running
from loupe.redis_server import open_redis
from loupe.settings import Settings
from loupe.store import StoredModel
from worker.jobs import ENDED, Jobs
from worker.submission import submit

IMAGES = 70_000
PHOTOS, DIFFERENT_PHOTOS = 1_000, 20  # the same file by fifty names is read fifty times
SMALL_MB, LARGE_MB = 350, 500  # of 10^6 bytes; a photo of 12 megapixels takes 36 of them
POLL_SECONDS = 0.01


def measure(model: StoredModel) -> Iterator[Row]:
    """Megabytes in memory at most, of a worker that has scored nothing else."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = find_images(model, IMAGES)
        np.save(folder / "images.npy", images)
        yield _row(f"{IMAGES:,} .npy images", SMALL_MB, _peak_bytes(model, folder / "images.npy", folder))
        _save_zip(images, folder / "images.zip")
        yield _row(f"{IMAGES:,} PNG files in a zip", SMALL_MB, _peak_bytes(model, folder / "images.zip", folder))
        _save_photos(folder / "photos")
        yield _row(f"{PHOTOS:,} photos of 12 megapixels", LARGE_MB, _peak_bytes(model, folder / "photos", folder))


def _save_zip(images: UInt8Array, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            archive.writestr(f"{number:06d}.png", file.getvalue())


def _save_photos(folder: Path) -> None:
    folder.mkdir()
    for number in range(PHOTOS):
        path = folder / f"{number:04}.jpg"
        if number < DIFFERENT_PHOTOS:
            path.write_bytes(photo(number))
        else:
            path.hardlink_to(folder / f"{number % DIFFERENT_PHOTOS:04}.jpg")


def _peak_bytes(model: StoredModel, source: Path, folder: Path) -> int:
    """The most that a new worker has in memory until a source is scored."""
    settings = Settings(data_dir=folder / "data")
    command = [sys.executable, "-m", "loupe.cli", "worker"]
    environment = {"LOUPE_DATA_DIR": str(settings.home)}
    log = folder / "worker.log"
    with (
        open_redis(settings) as redis,
        running("loupe worker", command, environment=environment, log=log) as worker,
    ):
        process, peak = psutil.Process(worker.process.pid), 0
        jobs = Jobs(redis)
        job = submit(jobs, source, Path(tempfile.mkdtemp(dir=folder)), model.tag, settings.shard_images)
        while job.state not in ENDED:
            worker.check()
            peak = max(peak, process.memory_info().rss)
            time.sleep(POLL_SECONDS)
            job = jobs.get(job.id)
        if job.state != "done":
            raise JobFailed(job.id, str(job.error))
        return peak


def _row(what: str, most_mb: int, peak_bytes: int) -> Row:
    peak_mb = peak_bytes / 1e6
    return Row(f"memory for {what}", f"{peak_mb:,.0f} MB", f"at most\n{most_mb} MB", peak_mb / most_mb, at_most(1.0))
