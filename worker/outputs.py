"""The output folder of a job: parts, errors, the summary, and `_SUCCESS` last. Nothing half-written is ever seen under its name."""

import hashlib
import json
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loupe.errors import InvalidOutput, LoupeError
from loupe.images import Float32Array
from worker.jobs import Job

CLAIM = "_RUNNING"  # an empty file: the folder belongs to a job that has not ended
SUMMARY = "summary.json"
SUCCESS = "_SUCCESS"
CANCELLED = "_CANCELLED"


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


def claim_folder(folder: Path) -> None:
    """Make an output folder, and make sure that it is empty and only ours.

    Raises:
        InvalidOutput: If it is not, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in folder.iterdir())
        if found:
            raise InvalidOutput(str(folder), f"a folder with {len(found)} entries ({', '.join(found[:3])} …)")
        (folder / CLAIM).touch(exist_ok=False)
    except FileExistsError as error:
        raise InvalidOutput(str(folder), "a file, or a folder that another job has just taken") from error
    except OSError as error:
        raise InvalidOutput(str(folder), f"a folder that cannot be written to ({error.strerror})") from error


def release_folder(folder: Path) -> None:
    """Undo `claim_folder` when no job came of it."""
    (folder / CLAIM).unlink(missing_ok=True)


def notes_path(folder: Path, revision: str) -> Path:
    """The folder where the plan of a source keeps what reading needs while the job runs; another revision has another."""
    return folder / f"_plan-{hashlib.sha256(revision.encode()).hexdigest()[:16]}"


@contextmanager
def taking_notes(folder: Path) -> Iterator[Path]:
    """A folder for the notes of a plan that is gone when the block ends, unless they are kept."""
    notes = folder / f".plan-{uuid.uuid4().hex}.tmp"
    notes.mkdir()
    try:
        yield notes
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def keep_notes(notes: Path, revision: str) -> None:
    """Let shards find the notes. Where another attempt at the same plan has left its own, they are as good."""
    kept = notes_path(notes.parent, revision)
    try:
        notes.rename(kept)
    except OSError:
        if not kept.is_dir():
            raise


def predictions_name(shard: int, shards: int) -> str:
    """File name of a shard's predictions."""
    return f"predictions-{shard:05d}-of-{shards:05d}.parquet"


def errors_name(shard: int, shards: int) -> str:
    """File name of a shard's errors."""
    return f"errors-{shard:05d}-of-{shards:05d}.jsonl"


def write_part(folder: Path, shard: int, shards: int, part: Part, class_names: Sequence[str]) -> None:
    """Write a shard's rows, and its errors where it has any; each file appears whole or not at all."""
    if part.errors:
        lines = [json.dumps({"id": record, **error.to_json()}, ensure_ascii=False) for record, error in part.errors]
        with _appearing(folder / errors_name(shard, shards)) as path:
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with _appearing(folder / predictions_name(shard, shards)) as path:
        # Ids and probabilities hardly repeat: dictionaries of them make the file larger and take twice as long.
        pq.write_table(_table(part, class_names), path, use_dictionary=["label"])


def write_summary(folder: Path, job: Job, class_names: Sequence[str], shards: Sequence[int]) -> None:
    """Count what the parts hold, write `summary.json`, remove what only the running job needed, and write `_SUCCESS` or `_CANCELLED`.

    Args:
        folder: The job's.
        job: Its record; of one that is cancelled, parts that are not among `shards` are removed.
        class_names: Of its model.
        shards: Whose parts are to be there.

    Raises:
        ValueError: If the parts do not hold every record of the source, and the job was not cancelled.
    """
    is_cancelled = job.state == "cancelling"
    counts = _count(folder, shards, job.shards)
    done, failed = counts.labels.total(), counts.errors.total()
    if not is_cancelled and done + failed != job.total:
        raise ValueError(f"the parts hold {done} rows and {failed} errors, the source {job.total} records")
    now = datetime.now(timezone.utc)
    started = datetime.fromtimestamp(job.started or job.created, timezone.utc)
    summary = {
        "job": job.id,
        "state": "cancelled" if is_cancelled else "done",
        "model": job.model,
        "source": job.source,
        "total": job.total,
        "done": done,
        "failed": failed,
        "labels": {name: counts.labels[name] for name in class_names},
        "errors": dict(counts.errors),
        "mean_confidence": counts.confidence / done if done else None,
        "parts": len(shards),
        "started": started.isoformat(),
        "finished": now.isoformat(),
        "images_per_second": (done + failed) / (now - started).total_seconds(),
    }
    with _appearing(folder / SUMMARY) as path:
        path.write_text(json.dumps(summary, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _tidy(folder, job, shards)
    (folder / (CANCELLED if is_cancelled else SUCCESS)).touch()


def read_errors(folder: Path) -> Iterator[dict[str, str]]:
    """Id, error and code of each record that could not be read, as far as parts are written."""
    for path in sorted(folder.glob("errors-*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


@dataclass(frozen=True)
class _Counts:
    """Images by label and by error, and the sum of their confidences."""

    labels: Counter[str]
    errors: Counter[str]
    confidence: float


def _count(folder: Path, parts: Sequence[int], shards: int) -> _Counts:
    labels: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    confidence = 0.0
    for shard in parts:
        table = pq.read_table(folder / predictions_name(shard, shards), columns=["label", "confidence"])
        labels.update(table["label"].to_pylist())
        confidence += float(np.asarray(table["confidence"], dtype=np.float64).sum())
        path = folder / errors_name(shard, shards)
        if path.exists():
            with path.open(encoding="utf-8") as lines:
                errors.update(json.loads(line)["code"] for line in lines)
    return _Counts(labels, errors, confidence)


def _tidy(folder: Path, job: Job, shards: Sequence[int]) -> None:
    """Remove what nobody needs any more: notes, temporary files, and parts that were written and never counted."""
    counted = {name(shard, job.shards) for shard in shards for name in (predictions_name, errors_name)}
    parts = [*folder.glob("predictions-*.parquet"), *folder.glob("errors-*.jsonl")]
    shutil.rmtree(notes_path(folder, job.revision), ignore_errors=True)
    for leftover in [folder / CLAIM, *folder.glob(".*.tmp"), *(part for part in parts if part.name not in counted)]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is flushed to disk and takes its name when the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # readers of Parquet folders pass over hidden files
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _table(part: Part, class_names: Sequence[str]) -> pa.Table:
    probabilities = part.probabilities
    index = probabilities.argmax(axis=1) if len(probabilities) else np.empty(0, np.int64)
    columns = {
        "id": pa.array(part.ids, pa.int64() if part.ids and isinstance(part.ids[0], int) else pa.string()),
        "label": pa.array(class_names, pa.string()).take(pa.array(index)),
        "index": pa.array(index.astype(np.int16)),
        "confidence": pa.array(probabilities[np.arange(len(index)), index]),
    }
    for column, name in enumerate(class_names):
        columns[f"p_{name}"] = pa.array(np.ascontiguousarray(probabilities[:, column]))
    return pa.table(columns)
