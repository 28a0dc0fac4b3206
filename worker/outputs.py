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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import InvalidOutput, LoupeError
from loupe.images import Float32Array
from worker import formats
from worker.jobs import DEFAULT_OPTIONS, Format, Job, Options, Request
from worker.places import Place, Remote, local_copy

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
    """

    ids: Sequence[str] | Sequence[int]
    probabilities: Float32Array
    errors: Sequence[tuple[str, LoupeError]]


def joined(parts: Sequence[Part], classes: int) -> Part:
    """The result of a shard, of those of its batches in their order."""
    ids: list[Any] = [record for part in parts for record in part.ids]
    answers = [np.empty((0, classes), np.float32), *(part.probabilities for part in parts)]
    return Part(ids, np.concatenate(answers), [error for part in parts for error in part.errors])


def claim_folder(folder: Place, request: Request) -> None:
    """Make an output folder, and make sure that it is empty and only ours.

    Raises:
        InvalidOutput: If it is not, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir())
        if found:
            raise InvalidOutput(str(folder), f"a folder with {len(found)} entries ({', '.join(found[:3])} …)")
        _write_claim(folder, request)
    except FileExistsError as error:
        raise InvalidOutput(str(folder), "a file, or a folder that another job has just taken") from error
    except OSError as error:
        raise InvalidOutput(str(folder), f"a folder that cannot be written to ({error.strerror or error})") from error


def release_folder(folder: Place) -> None:
    """Undo `claim_folder` when no job came of it."""
    (folder / CLAIM).unlink(missing_ok=True)


@dataclass(frozen=True)
class Held:
    """Whose result a folder holds.

    Attributes:
        request: What was asked for.
        mark: `_RUNNING`, `_CANCELLED` or `_SUCCESS`.
    """

    request: Request
    mark: str


def held(folder: Place) -> Held | None:
    """Whose result a folder holds, if it is that of a job."""
    for mark in (CLAIM, SUCCESS, CANCELLED):
        with suppress(OSError, ValueError, TypeError):
            return Held(Request.from_json((folder / mark).read_text(encoding="utf-8")), mark)
    return None


def reclaim_folder(folder: Place, request: Request) -> None:
    """Let the same job go on in its folder; parts that it has finished stay."""
    with suppress(FileExistsError):
        _write_claim(folder, request)
    for mark in (SUCCESS, CANCELLED):
        (folder / mark).unlink(missing_ok=True)


def clear_folder(folder: Place) -> None:
    """Remove what a job has written; what others have put there stays."""
    (folder / SUMMARY).unlink(missing_ok=True)
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


def _write_claim(folder: Place, request: Request) -> None:
    """Write the claim, which is there whole or not at all; `FileExistsError` if there is one."""
    with appearing_once(folder / CLAIM) as path:
        path.write_text(request.to_json() + "\n", encoding="utf-8")


def notes_path(folder: Place, revision: str) -> Place:
    """The folder where the plan of a source keeps what reading needs while the job runs; another revision has another."""
    return folder / f"{NOTES}{hashlib.sha256(revision.encode()).hexdigest()[:16]}"


@contextmanager
def taking_notes(folder: Place) -> Iterator[Path]:
    """A folder on this machine for the notes of a plan that is gone when the block ends, unless they are kept."""
    if isinstance(folder, Remote):
        with tempfile.TemporaryDirectory(prefix="loupe-plan-") as aside:
            yield Path(aside)
        return
    notes = folder / f".plan-{uuid.uuid4().hex}.tmp"
    notes.mkdir()
    try:
        yield notes
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def keep_notes(folder: Place, notes: Path, revision: str) -> None:
    """Let shards find the notes. Where another attempt at the same plan has left its own, they are as good."""
    kept = notes_path(folder, revision)
    if isinstance(kept, Remote):
        for file in notes.iterdir():
            (kept / file.name).upload(file)
        return
    try:
        notes.rename(kept)
    except OSError:
        if not kept.is_dir():
            raise


def predictions_name(shard: int, shards: int, kind: Format = "parquet") -> str:
    """File name of a shard's predictions."""
    return f"predictions-{shard:05d}-of-{shards:05d}.{kind}"


def errors_name(shard: int, shards: int) -> str:
    """File name of a shard's errors."""
    return f"_errors-{shard:05d}-of-{shards:05d}.jsonl"


def receipt_name(shard: int, shards: int) -> str:
    """File name of a shard's receipt; readers of Parquet folders pass over it."""
    return f"_part-{shard:05d}-of-{shards:05d}.json"


def write_part(
    folder: Place, shard: int, shards: int, part: Part, class_names: Sequence[str], options: Options = DEFAULT_OPTIONS
) -> list[str]:
    """Write a shard's rows, and its errors where it has any; each file appears whole or not at all.

    Returns:
        The names of the files.
    """
    names = [predictions_name(shard, shards, options.format)]
    if part.errors:
        lines = [json.dumps({"id": record, **error.to_json()}, ensure_ascii=False) for record, error in part.errors]
        names.append(errors_name(shard, shards))
        with appearing(folder / names[-1]) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = formats.table(part.ids, part.probabilities, class_names, options)
    with appearing(folder / names[0]) as path:
        formats.write(rows, path, options.format)
    return names


def write_summary(folder: Place, job: Job, class_names: Sequence[str], shards: Sequence[int]) -> None:
    """Count what the parts hold, write `_summary.json`, remove what only the running job needed, and write `_SUCCESS` or `_CANCELLED`.

    Args:
        folder: The job's.
        job: Its record; of one that is cancelled, parts that are not among `shards` are removed.
        class_names: Of its model.
        shards: Whose parts are to be there.

    Raises:
        ValueError: If the parts do not hold every record of the source, and the job was not cancelled.
    """
    is_cancelled = job.state == "cancelling"
    predictions = _predictions(folder, job, shards)
    counts = _count(predictions, _errors(folder, job, shards), job.options.format)
    done, failed = counts.done, counts.errors.total()
    if not is_cancelled and done + failed != job.total:
        raise ValueError(f"the parts hold {done} rows and {failed} errors, the source {job.total} records")
    now = datetime.now(timezone.utc)
    started = datetime.fromtimestamp(job.started or job.created, timezone.utc)
    summary = {
        "job": job.id,
        "state": "cancelled" if is_cancelled else "done",
        "model": job.model,
        "source": job.source,
        "revision": job.revision,
        "total": job.total,
        "done": done,
        "failed": failed,
        "abstained": done - counts.labels.total(),
        "labels": {name: counts.labels[name] for name in class_names},
        "errors": dict(counts.errors),
        "mean_confidence": counts.confidence / done if done else None,
        "parts": len(shards),
        "started": started.isoformat(),
        "finished": now.isoformat(),
        "images_per_second": (done + failed) / (now - started).total_seconds(),
    }
    with appearing(folder / SUMMARY) as path:
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _tidy(folder, job, shards)
    with appearing(folder / (CANCELLED if is_cancelled else SUCCESS)) as path:
        path.write_text(job.request.to_json() + "\n", encoding="utf-8")
    (folder / CLAIM).unlink(missing_ok=True)


def read_summary(folder: Place) -> dict[str, object]:
    """What `write_summary` wrote."""
    found: dict[str, object] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    return found


def read_errors(folder: Place) -> Iterator[dict[str, str]]:
    """Id, error and code of each record that could not be read, as far as parts are written."""
    found: Iterable[Place] = folder.glob("_errors-*.jsonl")
    for file in sorted(found, key=str):
        with file.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def _predictions(folder: Place, job: Job, shards: Sequence[int]) -> list[Place]:
    """The files with the rows of these shards: one, if they are to be merged, which can be done only once."""
    kind = job.options.format
    parts = [folder / predictions_name(shard, job.shards, kind) for shard in shards]
    if not job.options.single or not parts:
        return parts
    merged = folder / f"predictions.{kind}"
    if not merged.exists():
        with appearing(merged) as path, ExitStack() as copies:
            formats.merge([copies.enter_context(local_copy(part)) for part in parts], path, kind)
    return [merged]


def _errors(folder: Place, job: Job, shards: Sequence[int]) -> list[Place]:
    """The files with the errors of these shards, of those that have some."""
    names = {errors_name(shard, job.shards) for shard in shards}
    return [file for file in folder.glob("_errors-*.jsonl") if file.name in names]


@dataclass(frozen=True)
class _Counts:
    """Rows, those with a label by label, errors by code, and the sum of all confidences."""

    done: int
    labels: Counter[str]
    errors: Counter[str]
    confidence: float


def _count(predictions: Sequence[Place], errors: Sequence[Place], kind: Format) -> _Counts:
    labels: Counter[str | None] = Counter()
    codes: Counter[str] = Counter()
    confidence = 0.0
    for file in predictions:
        with local_copy(file) as path:
            for rows in formats.read_labels(path, kind):
                labels.update(rows.column(formats.LABEL).to_pylist())
                confidence += float(np.asarray(rows.column(formats.CONFIDENCE), dtype=np.float64).sum())
    for file in errors:
        with file.open(encoding="utf-8") as lines:
            codes.update(json.loads(line)["code"] for line in lines)
    done = labels.total()
    return _Counts(done, Counter({label: n for label, n in labels.items() if label is not None}), codes, confidence)


def _tidy(folder: Place, job: Job, shards: Sequence[int]) -> None:
    """Remove what nobody needs any more: notes, temporary files, and parts that are merged or were never counted."""
    counted = {errors_name(shard, job.shards) for shard in shards}
    if not job.options.single:
        counted |= {predictions_name(shard, job.shards, job.options.format) for shard in shards}
    if job.state == "cancelling" and not job.options.single:
        counted |= {receipt_name(shard, job.shards) for shard in shards}  # should the job go on
    parts = [*folder.glob("predictions-*"), *folder.glob("_errors-*.jsonl"), *folder.glob("_part-*.json")]
    uncounted = [part for part in parts if part.name not in counted]
    for leftover in [notes_path(folder, job.revision), *folder.glob(".*.tmp"), *uncounted]:
        _remove(leftover)


def _remove(leftover: Place) -> None:
    """Remove a file or a folder, if it is there."""
    if isinstance(leftover, Remote):
        for file in leftover.iterdir() if leftover.name.startswith(NOTES) else [leftover]:
            file.unlink(missing_ok=True)
    elif leftover.is_dir():
        shutil.rmtree(leftover)
    else:
        leftover.unlink(missing_ok=True)


@contextmanager
def appearing(path: Place) -> Iterator[Path]:
    """A temporary path beside `path` that is flushed to disk and takes its name when the block ends well, or is put into the bucket."""
    if isinstance(path, Remote):
        with path.appearing() as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # readers of Parquet folders pass over hidden files
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def appearing_once(path: Place) -> Iterator[Path]:
    """The same, if nothing has the name already; else `FileExistsError`."""
    if isinstance(path, Remote):
        with path.appearing(once=True) as temporary:
            yield temporary
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
