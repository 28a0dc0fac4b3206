"""The output folder of a job: parts, errors, the summary, and last of all `_SUCCESS`.

Every file appears under its name when it is complete. Readers of Parquet folders ignore names that
begin with `_` or `.`, so all files but the predictions have such names.
"""

import hashlib
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic_core import to_json

from loupe.errors import LoupeError
from loupe.images.spec import Float32Array, UInt8Array
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.models.certainty import LEVEL
from loupe.results import (
    CANCELLED,
    COLUMNS_FILE,
    RUNNING,
    SUCCESS,
    errors_name,
    predictions_name,
    receipt_name,
    single_name,
)
from worker.queue.records import Job
from worker.remote_path import RemotePath
from worker.results import contact_sheet, formats
from worker.results.claims import (
    INDEX,
    LEAST_CONFIDENT,
    PARTS,
    SAMPLE,
    SUMMARY,
    TEMPORARY,
    merged_file,
    remove,
    remove_replaced,
)
from worker.results.statistics import StepStatistics
from worker.results.summary import JobSummary, count, summarize
from worker.sources.source import ColumnTypes
from worker.storage import AnyPath, local_copy, open_text, publish, read_text, write_file


@dataclass(frozen=True)
class Part:
    """The result of one shard, or of a batch.

    Attributes:
        ids: Path or row number of each scored record.
        probabilities: float32, shape `(len(ids), classes)`.
        errors: Id and error of each unreadable record.
        kept: Requested columns of the source, a row for each scored record.
        blank: Which of the scored records have no ink, and so no label; `None` if none.
        familiarity: float32, shape `(len(ids),)`, NaN if it is not known; `None` if none is.
    """

    ids: Sequence[str] | Sequence[int]
    probabilities: Float32Array
    errors: Sequence[tuple[str, LoupeError]]
    kept: pa.Table | None = None
    blank: NDArray[np.bool_] | None = None
    familiarity: Float32Array | None = None


def concatenate(parts: Sequence[Part], classes: int) -> Part:
    """Join the results of batches in their order."""
    ids: list[Any] = [record for part in parts for record in part.ids]
    rows = [np.empty((0, classes), np.float32), *(part.probabilities for part in parts)]
    familiarity = [
        np.full(len(part.ids), np.nan, np.float32) if part.familiarity is None else part.familiarity
        for part in parts
    ]
    errors = [error for part in parts for error in part.errors]
    kept = [part.kept for part in parts if part.kept is not None]
    blank = [np.zeros(len(part.ids), bool) if part.blank is None else part.blank for part in parts]
    return Part(
        ids,
        np.concatenate(rows),
        errors,
        pa.concat_tables(kept) if kept else None,
        np.concatenate(blank) if blank else None,
        np.concatenate(familiarity) if familiarity else None,
    )


def index_path(folder: AnyPath, revision: str) -> AnyPath:
    """Return the folder of a plan's index, which another revision of the source does not share."""
    return folder / f"{INDEX}{hashlib.sha256(revision.encode()).hexdigest()[:16]}"


@contextmanager
def temporary_index(folder: AnyPath) -> Iterator[Path]:
    """Yield a local folder for an index; it is removed at the end unless it was published."""
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="loupe-plan-") as name:
            yield Path(name)
        return
    index = folder / f".plan-{uuid.uuid4().hex}.tmp"
    index.mkdir()
    try:
        yield index
    finally:
        shutil.rmtree(index, ignore_errors=True)


def publish_index(folder: AnyPath, index: Path, revision: str) -> None:
    """Make an index available to all shards, which start when all of its files are there.

    File by file: gcsfuse does not rename folders.
    """
    target = index_path(folder, revision)
    target.mkdir(exist_ok=True)
    for file in index.iterdir():
        if isinstance(target, RemotePath):
            (target / file.name).upload(file)
        else:
            file.replace(target / file.name)


def write_columns(folder: AnyPath, columns: dict[str, str]) -> None:
    """Write the columns of the rows and the names of their types, which CSV and JSON lack."""
    write_file(folder / COLUMNS_FILE, json.dumps(columns, indent=2, ensure_ascii=False) + "\n")


def write_part(
    folder: AnyPath,
    shard: int,
    shards: int,
    part: Part,
    class_names: Sequence[str],
    options: ScoringOptions = DEFAULT_OPTIONS,
    types: ColumnTypes = formats.TEXT_IDS,
) -> list[str]:
    """Write the rows of a shard, and its errors if there are any; return the file names."""
    names = [predictions_name(shard, shards, options.format)]
    if part.errors:
        lines = [
            json.dumps({"id": record, **error.to_json()}, ensure_ascii=False)
            for record, error in part.errors
        ]
        names.append(errors_name(shard, shards))
        write_file(folder / names[-1], "\n".join(lines) + "\n")
    rows = formats.table(
        part.ids,
        part.probabilities,
        class_names,
        options,
        part.kept,
        types,
        part.blank,
        part.familiarity,
    )
    with publish(folder / names[0]) as path:
        formats.write(rows, path, options.format)
    return names


def read_errors(folder: AnyPath) -> Iterator[dict[str, str]]:
    """Yield id, error and code of each unreadable record of the parts that are written."""
    found: Iterable[AnyPath] = folder.glob("_errors-*.jsonl")
    for file in sorted(found, key=str):
        yield from read_lines(file)


def read_lines(file: AnyPath) -> Iterator[dict[str, str]]:
    """Yield the errors of one file."""
    with open_text(file) as lines:
        yield from map(json.loads, lines)


def remove_uncommitted(folder: AnyPath, job: Job, shard: int) -> None:
    """Remove the files of a shard that another worker committed, if the job has ended."""
    if (folder / SUMMARY).exists():
        (folder / receipt_name(shard, job.shards)).unlink(missing_ok=True)
    if job.options.single and merged_file(folder, job.request).exists():
        (folder / predictions_name(shard, job.shards, job.options.format)).unlink(missing_ok=True)


def write_summary(
    folder: AnyPath,
    job: Job,
    class_names: Sequence[str],
    shards: Sequence[int],
    statistics: StepStatistics,
    originals: Mapping[str, UInt8Array] | None = None,
    level: float = LEVEL,
) -> None:
    """Write the summary of these shards, then `_SUCCESS` or `_CANCELLED`; remove all other parts.

    Raises:
        ValueError: If the job was not cancelled and the parts lack records of the source.
    """
    is_cancelled = job.state == "cancelling"
    if job.total is None:
        remove_replaced(folder, job.request)
    if is_cancelled or not is_summarized(folder, job):
        errors = {errors_name(shard, job.shards) for shard in shards}
        counts = count(
            _merge_predictions(folder, job, shards),
            [file for file in folder.glob("_errors-*.jsonl") if file.name in errors],
            job.options,
            level,
        )
        done, failed = counts.done, counts.errors.total()
        if not is_cancelled and done + failed + job.skipped != job.total:
            raise ValueError(
                f"the parts hold {done} rows and {failed} errors, the source "
                f"{(job.total or 0) - job.skipped} records"
            )
        _draw_sheets(folder, job, class_names, statistics, done, originals or {})
        summary = summarize(job, class_names, shards, counts, statistics)
        # A model may answer NaN, which JSON does not have.
        write_file(folder / SUMMARY, to_json(summary, indent=2, inf_nan_mode="null") + b"\n")
    _remove_leftovers(folder, job, shards)
    marker = CANCELLED if is_cancelled else SUCCESS
    write_file(folder / marker, job.request.model_dump_json() + "\n")
    (folder / RUNNING).unlink(missing_ok=True)


def read_summary(folder: AnyPath) -> JobSummary:
    """Read the summary back."""
    summary: JobSummary = json.loads(read_text(folder / SUMMARY))
    return summary


def is_summarized(folder: AnyPath, job: Job) -> bool:
    """Return whether an earlier attempt wrote the summary; it may have removed the receipts."""
    try:
        summary = read_summary(folder)
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    expected = {"job": job.id, "state": "done", "revision": job.revision}
    return expected.items() <= summary.items()


def _draw_sheets(
    folder: AnyPath,
    job: Job,
    class_names: Sequence[str],
    statistics: StepStatistics,
    done: int,
    originals: Mapping[str, UInt8Array],
) -> None:
    """Draw contact sheets of a random sample and of the least confident images."""
    for name, which, tiles in (
        (SAMPLE, "drawn at random", statistics.sample),
        (LEAST_CONFIDENT, "the least confident", statistics.least_confident),
    ):
        if tiles:
            title = f"{len(tiles)} of {done:,} images, {which}; {job.model}"
            sheet = contact_sheet.draw(title, tiles, class_names, job.options.threshold, originals)
            write_file(folder / name, sheet)


def _merge_predictions(folder: AnyPath, job: Job, shards: Sequence[int]) -> list[AnyPath]:
    """Return the prediction files of these shards, merged into one file if requested."""
    kind = job.options.format
    parts = [folder / predictions_name(shard, job.shards, kind) for shard in shards]
    if not job.options.single or not parts:
        return parts
    merged = merged_file(folder, job.request)
    if not merged.exists():
        with publish(merged) as path, ExitStack() as copies:
            formats.merge([copies.enter_context(local_copy(part)) for part in parts], path, kind)
    return [merged]


def _remove_leftovers(folder: AnyPath, job: Job, shards: Sequence[int]) -> None:
    """Remove index, temporary files, receipts, merged parts and parts that do not count."""
    kept = {errors_name(shard, job.shards) for shard in shards}
    if job.options.single:
        kept.add(single_name(job.options.format))
    else:
        kept |= {predictions_name(shard, job.shards, job.options.format) for shard in shards}
        if job.state == "cancelling":  # the job may be resumed
            kept |= {receipt_name(shard, job.shards) for shard in shards}
    parts: Iterable[AnyPath] = chain.from_iterable(folder.glob(pattern) for pattern in PARTS)
    # A job that was cancelled before its plan was committed may be resumed with all its parts.
    leftovers = [path for path in parts if path.name not in kept and job.total is not None]
    for path in [index_path(folder, job.revision), *folder.glob(TEMPORARY), *leftovers]:
        remove(path)
