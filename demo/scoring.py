"""Score the whole test split from PNG files, and three broken files with them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from redis import Redis

from loupe.errors import JobFailed
from loupe.models.store import StoredModel
from loupe.settings import load_settings
from loupe.terminal import console
from train.data.datasets import Dataset
from worker.jobs_cli import watch
from worker.queue.jobs import Jobs
from worker.queue.submission import prepare
from worker.results.claims import SUMMARY
from worker.results.outputs import read_errors


def run(redis: Redis, model: StoredModel, dataset: Dataset, folder: Path) -> list[tuple[str, str]]:
    """Submit a job, follow it, compare its results with the labels, and return table rows."""
    source, output = folder / "images", folder / "results"
    with console.status(f"writing {len(dataset.test.images):,} PNG files, and three broken ones"):
        _write_files(source, dataset)
    jobs = Jobs(redis)
    prepared = prepare(jobs.find, source, output, model.tag, load_settings().shard_images)
    job = watch(jobs, jobs.submit(prepared.request).id, console)
    if job.state == "failed":
        raise JobFailed(f"Job {job.id} failed: {job.error}")
    accuracy = _accuracy(output, dataset)
    for error in read_errors(output):
        console.print(f"  {error['id']}: {error['error']}")
    rate = json.loads((output / SUMMARY).read_text(encoding="utf-8"))["images_per_second"]
    console.print(
        f"{job.done:,} scored, {rate:,.0f} images/s, accuracy {accuracy:.4f}, {job.failed} errors"
    )
    return [
        ("bulk scoring from PNG files", f"{rate:,.0f} images/s"),
        ("bulk accuracy", f"{accuracy:.4f} of {job.done:,}"),
        ("bulk errors (3 files are broken)", str(job.failed)),
    ]


def _write_files(source: Path, dataset: Dataset) -> None:
    source.mkdir()
    for number, image in enumerate(dataset.test.images):
        Image.fromarray(image).save(source / f"{number:05d}.png")
    whole = (source / "00000.png").read_bytes()
    (source / "broken-empty.png").write_bytes(b"")
    (source / "broken-text.jpg").write_bytes(b"this is no image")
    (source / "broken-truncated.png").write_bytes(whole[: len(whole) // 2])


def _accuracy(output: Path, dataset: Dataset) -> float:
    """Return the fraction of correct labels; a file's name is its index in the test split."""
    rows = pq.read_table(output, columns=["id", "index"]).to_pylist()
    labels = (dataset.test.labels[int(row["id"].removesuffix(".png"))] for row in rows)
    right = [row["index"] == label for row, label in zip(rows, labels, strict=True)]
    return float(np.mean(right))
