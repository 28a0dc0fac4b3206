"""The output folder of a job: parts, errors, the summary, and `_SUCCESS` last. Nothing half-written is ever seen under its name.

A file on this machine is written under a temporary name and renamed; to a bucket it is put whole.
Readers of Parquet folders pass over what begins with `_` or `.`, so whatever is no row of the result has such a name.
"""

import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from loupe.errors import LoupeError
from loupe.images.spec import Float32Array
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.old_errors.worker import InvalidOutput
from loupe.results import errors_name, predictions_name, single_name
from worker.queue.jobs import Job, JobRequest
from worker.results import contact_sheet, formats
from worker.results.statistics import StepStatistics
from worker.results.summary import Summary, count, summarize
from worker.storage import AnyPath, RemotePath, local_copy

SAMPLE, LEAST_CONFIDENT = "_sample.png", "_least-confident.png"
CLAIM = "_RUNNING"  # the folder belongs to a job that has not ended well; holds its request, as the two below do
SUMMARY = "_summary.json"
SUCCESS = "_SUCCESS"
CANCELLED = "_CANCELLED"
NOTES = "_plan-"  # what the name of a folder with notes begins with


@dataclass(frozen=True)
class Part:
    """The result of one shard.

    Attributes:
        ids: Path or row number of each scored record.
        probabilities: float32, shape `(len(ids), classes)`.
        errors: Id and error of each record that could not be read.
        kept: What else the source says of each scored record, if anything of it is asked for.
    """

    ids: Sequence[str] | Sequence[int]
    probabilities: Float32Array
    errors: Sequence[tuple[str, LoupeError]]
    kept: pa.Table | None = None


def concatenate(parts: Sequence[Part], classes: int) -> Part:
    """The result of a shard, of those of its batches in their order."""
    ids: list[Any] = [record for part in parts for record in part.ids]
    answers = [np.empty((0, classes), np.float32), *(part.probabilities for part in parts)]
    errors = [error for part in parts for error in part.errors]
    kept = [part.kept for part in parts if part.kept is not None]
    return Part(ids, np.concatenate(answers), errors, pa.concat_tables(kept) if kept else None)


def claim_folder(folder: AnyPath, request: JobRequest) -> None:
    """Make an output folder, and make sure that it is empty and only ours.

    Raises:
        InvalidOutput: If it is not, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Another submission of the same job may be writing its claim right now.
        names = (path.name for path in folder.iterdir())
        found = sorted(name for name in names if not name.startswith(f".{CLAIM}."))
        if found:
            raise InvalidOutput(
                str(folder), f"a folder with {len(found)} entries ({', '.join(found[:3])} …)"
            )
        _write_claim(folder, request)
    except FileExistsError as error:
        raise InvalidOutput(
            str(folder), "a file, or a folder that another job has just taken"
        ) from error
    except OSError as error:
        raise InvalidOutput(
            str(folder), f"a folder that cannot be written to ({error.strerror or error})"
        ) from error


def release_folder(folder: AnyPath) -> None:
    """Undo `claim_folder` when no job came of it."""
    (folder / CLAIM).unlink(missing_ok=True)


@dataclass(frozen=True)
class Claim:
    """Whose result a folder holds.

    Attributes:
        request: What was asked for.
        marker: `_RUNNING`, `_CANCELLED` or `_SUCCESS`.
    """

    request: JobRequest
    marker: str


def read_claim(folder: AnyPath) -> Claim | None:
    """Whose result a folder holds, if it is that of a job."""
    for mark in (CLAIM, SUCCESS, CANCELLED):
        with suppress(OSError, ValueError, TypeError):
            return Claim(
                JobRequest.model_validate_json((folder / mark).read_text(encoding="utf-8")), mark
            )
    return None


def reclaim_folder(folder: AnyPath, request: JobRequest) -> None:
    """Let the same job go on in its folder; parts that it has finished stay."""
    with suppress(FileExistsError):
        _write_claim(folder, request)
    if (folder / CANCELLED).exists():  # what was merged then is not all
        (folder / single_name(request.options.format)).unlink(missing_ok=True)
    for mark in (SUCCESS, CANCELLED):
        (folder / mark).unlink(missing_ok=True)


def clear_folder(folder: AnyPath) -> None:
    """Remove what a job has written; what others have put there stays."""
    for name in (SUMMARY, SAMPLE, LEAST_CONFIDENT):
        (folder / name).unlink(missing_ok=True)
    for pattern in (
        "predictions[-.]*",
        "_errors-*.jsonl",
        "_part-*.json",
        ".*.tmp",
        f"{NOTES}*",
        SUCCESS,
        CANCELLED,
        CLAIM,
    ):
        for path in folder.glob(pattern):
            _remove(path)


def _write_claim(folder: AnyPath, request: JobRequest) -> None:
    """Write the claim, which is there whole or not at all; `FileExistsError` if there is one."""
    with publish_new(folder / CLAIM) as path:
        path.write_text(request.model_dump_json() + "\n", encoding="utf-8")


def index_path(folder: AnyPath, revision: str) -> AnyPath:
    """The folder where the plan of a source keeps what reading needs while the job runs; another revision has another."""
    return folder / f"{NOTES}{hashlib.sha256(revision.encode()).hexdigest()[:16]}"


@contextmanager
def temporary_index(folder: AnyPath) -> Iterator[Path]:
    """A folder on this machine for the notes of a plan that is gone when the block ends, unless they are kept."""
    if isinstance(folder, RemotePath):
        with tempfile.TemporaryDirectory(prefix="loupe-plan-") as aside:
            yield Path(aside)
        return
    notes = folder / f".plan-{uuid.uuid4().hex}.tmp"
    notes.mkdir()
    try:
        yield notes
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def publish_index(folder: AnyPath, notes: Path, revision: str) -> None:
    """Let shards find the notes. Where another attempt at the same plan has left its own, they are as good."""
    kept = index_path(folder, revision)
    if isinstance(kept, RemotePath):
        for file in notes.iterdir():
            (kept / file.name).upload(file)
        return
    try:
        notes.rename(kept)
    except OSError:
        if not kept.is_dir():
            raise


def receipt_name(shard: int, shards: int) -> str:
    """File name of a shard's receipt; readers of Parquet folders pass over it."""
    return f"_part-{shard:05d}-of-{shards:05d}.json"


def write_part(
    folder: AnyPath,
    shard: int,
    shards: int,
    part: Part,
    class_names: Sequence[str],
    options: ScoringOptions = DEFAULT_OPTIONS,
) -> list[str]:
    """Write a shard's rows, and its errors where it has any; each file appears whole or not at all.

    Returns:
        The names of the files.
    """
    names = [predictions_name(shard, shards, options.format)]
    if part.errors:
        lines = [
            json.dumps({"id": record, **error.to_json()}, ensure_ascii=False)
            for record, error in part.errors
        ]
        names.append(errors_name(shard, shards))
        with publish(folder / names[-1]) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = formats.table(part.ids, part.probabilities, class_names, options, part.kept)
    with publish(folder / names[0]) as path:
        formats.write(rows, path, options.format)
    return names


def write_summary(
    folder: AnyPath,
    job: Job,
    class_names: Sequence[str],
    shards: Sequence[int],
    figures: StepStatistics,
) -> None:
    """Count what the parts hold, write the summary, remove what only the running job needed, and write `_SUCCESS` or `_CANCELLED`.

    Args:
        folder: The job's.
        job: Its record; of one that is cancelled, parts that are not among `shards` are removed.
        class_names: Of its model.
        shards: Whose parts are to be there.
        figures: Of its steps.

    Raises:
        ValueError: If the parts do not hold every record of the source, and the job was not cancelled.
    """
    is_cancelled = job.state == "cancelling"
    if is_cancelled or not _is_told(folder, job):
        predictions = _predictions(folder, job, shards)
        counts = count(predictions, _errors(folder, job, shards), job.options)
        done, failed = counts.done, counts.errors.total()
        if not is_cancelled and done + failed != job.total:
            raise ValueError(
                f"the parts hold {done} rows and {failed} errors, the source {job.total} records"
            )
        _draw_sheets(folder, job, class_names, figures, done)
        summary = summarize(job, class_names, shards, counts, figures)
        with publish(folder / SUMMARY) as path:
            path.write_text(
                json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )
    _remove_leftovers(folder, job, shards)
    with publish(folder / (CANCELLED if is_cancelled else SUCCESS)) as path:
        path.write_text(job.request.model_dump_json() + "\n", encoding="utf-8")
    (folder / CLAIM).unlink(missing_ok=True)


def read_summary(folder: AnyPath) -> Summary:
    """What `write_summary` wrote."""
    found: Summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return found


def _is_told(folder: AnyPath, job: Job) -> bool:
    """Whether an earlier attempt has written the summary; it may have removed the receipts from which it knew what each phase took."""
    try:
        summary = read_summary(folder)
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    about = {"job": job.id, "state": "done", "revision": job.revision}
    return {name: summary.get(name) for name in about} == about


def _draw_sheets(
    folder: AnyPath, job: Job, class_names: Sequence[str], figures: StepStatistics, done: int
) -> None:
    """Show some of the images, and those with the least confidence, where there are any."""
    sheets = {
        SAMPLE: ("drawn at random", figures.sample),
        LEAST_CONFIDENT: ("the least confident", figures.least_confident),
    }
    for name, (which, tiles) in sheets.items():
        if tiles:
            title = f"{len(tiles)} of {done:,} images, {which}; {job.model}"
            with publish(folder / name) as path:
                path.write_bytes(
                    contact_sheet.draw(title, tiles, class_names, job.options.threshold)
                )


def read_errors(folder: AnyPath) -> Iterator[dict[str, str]]:
    """Id, error and code of each record that could not be read, as far as parts are written."""
    found: Iterable[AnyPath] = folder.glob("_errors-*.jsonl")
    for file in sorted(found, key=str):
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _predictions(folder: AnyPath, job: Job, shards: Sequence[int]) -> list[AnyPath]:
    """The files with the rows of these shards: one, if they are to be merged, which can be done only once."""
    kind = job.options.format
    parts = [folder / predictions_name(shard, job.shards, kind) for shard in shards]
    if not job.options.single or not parts:
        return parts
    merged = folder / single_name(kind)
    if not merged.exists():
        with publish(merged) as path, ExitStack() as copies:
            formats.merge([copies.enter_context(local_copy(part)) for part in parts], path, kind)
    return [merged]


def _errors(folder: AnyPath, job: Job, shards: Sequence[int]) -> list[AnyPath]:
    """The files with the errors of these shards, of those that have some."""
    names = {errors_name(shard, job.shards) for shard in shards}
    return [file for file in folder.glob("_errors-*.jsonl") if file.name in names]


def _remove_leftovers(folder: AnyPath, job: Job, shards: Sequence[int]) -> None:
    """Remove what nobody needs any more: notes, temporary files, and parts that are merged or were never counted."""
    counted = {errors_name(shard, job.shards) for shard in shards}
    if not job.options.single:
        counted |= {predictions_name(shard, job.shards, job.options.format) for shard in shards}
    if job.state == "cancelling" and not job.options.single:
        counted |= {receipt_name(shard, job.shards) for shard in shards}  # should the job go on
    parts = [
        *folder.glob("predictions-*"),
        *folder.glob("_errors-*.jsonl"),
        *folder.glob("_part-*.json"),
    ]
    uncounted = [part for part in parts if part.name not in counted]
    for leftover in [index_path(folder, job.revision), *folder.glob(".*.tmp"), *uncounted]:
        _remove(leftover)


def _remove(leftover: AnyPath) -> None:
    """Remove a file or a folder, if it is there."""
    if isinstance(leftover, RemotePath):
        for file in leftover.iterdir() if leftover.name.startswith(NOTES) else [leftover]:
            file.unlink(missing_ok=True)
    elif leftover.is_dir():
        shutil.rmtree(leftover)
    else:
        leftover.unlink(missing_ok=True)


def remove_uncommitted(folder: AnyPath, job: Job, shard: int) -> None:
    """Remove what a worker has written of a shard that another one has committed, where the last step has tidied already."""
    if (folder / SUMMARY).exists():
        (folder / receipt_name(shard, job.shards)).unlink(missing_ok=True)
    if (folder / single_name(job.options.format)).exists():
        (folder / predictions_name(shard, job.shards, job.options.format)).unlink(missing_ok=True)


@contextmanager
def publish(path: AnyPath) -> Iterator[Path]:
    """A temporary path beside `path` that is flushed to disk and takes its name when the block ends well, or is put into the bucket."""
    if isinstance(path, RemotePath):
        with path.publish() as temporary:
            yield temporary
        return
    # Readers of Parquet folders pass over hidden files. Workers in containers often have one and the same process id.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def publish_new(path: AnyPath) -> Iterator[Path]:
    """The same, if nothing has the name already; else `FileExistsError`."""
    if isinstance(path, RemotePath):
        with path.publish(once=True) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
