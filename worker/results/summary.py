"""The summary of a job: counted from its parts, written as JSON, printed as tables."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from loupe.conversion import plain_schema, read_rows
from loupe.images.selection import describe
from loupe.jobs import ScoringOptions
from loupe.models.certainty import LEVEL
from loupe.terminal import Column, print_sections, print_table
from worker.queue.records import Job
from worker.results.formats import CONFIDENCE, FAMILIARITY, LABEL, shown_names
from worker.results.labels import LABEL_TRUE, agreement
from worker.results.statistics import PHASES, StepStatistics
from worker.storage import AnyPath, local_copy, open_text

BINS = 10  # of the histogram of confidences, from 0 to 1
MAX_BAR = 24  # characters
MIN_SECONDS = 0.001  # of a job: the clock of Redis, by which it starts, may be ahead

JobSummary: TypeAlias = dict[str, Any]  # as JSON


@dataclass(frozen=True)
class Counts:
    """Counts of a job's parts.

    Attributes:
        done: Number of rows.
        labels: Rows by true and predicted label, either of which may be `None`.
        errors: Errors by code.
        confidence: Sum over all rows.
        histogram: Rows by confidence, in `BINS` equal bins from 0 to 1.
        familiar: Number of rows with a familiarity.
        familiarity: Its sum.
        unfamiliar: Rows with a familiarity below the model's level.
    """

    done: int
    labels: Counter[tuple[str | None, str | None]]
    errors: Counter[str]
    confidence: float
    histogram: list[int]
    familiar: int = 0
    familiarity: float = 0.0
    unfamiliar: int = 0

    def with_label(self, label: str | None) -> int:
        """Return the number of rows with a predicted label, or without one."""
        return sum(n for (_, predicted), n in self.labels.items() if predicted == label)


def count(
    predictions: Iterable[AnyPath],
    errors: Iterable[AnyPath],
    options: ScoringOptions,
    level: float = LEVEL,
) -> Counts:
    """Count the rows and errors in these files; a familiarity below `level` is unfamiliar."""
    labels: Counter[tuple[str | None, str | None]] = Counter()
    codes: Counter[str] = Counter()
    total = 0.0
    familiar, familiarity, unfamiliar = 0, 0.0, 0
    histogram = np.zeros(BINS, np.int64)
    keys = [LABEL_TRUE, LABEL] if options.labels else [LABEL]
    schema = plain_schema(dict.fromkeys([*keys, CONFIDENCE, FAMILIARITY], ""))
    for file in predictions:
        with local_copy(file) as path:
            for rows in read_rows(path, options.format, schema):
                labels.update(_pairs(rows, keys))
                confidence = np.asarray(rows.column(CONFIDENCE), dtype=np.float64)
                total += float(confidence.sum())
                histogram += np.histogram(confidence.clip(0, 1), BINS, (0, 1))[0]
                known = rows.column(FAMILIARITY).drop_null().to_numpy(zero_copy_only=False)
                familiar += len(known)
                familiarity += float(known.sum(dtype=np.float64))
                unfamiliar += int(np.count_nonzero(known < np.float32(level)))
    for file in errors:
        with open_text(file) as lines:
            codes.update(json.loads(line)["code"] for line in lines)
    known = familiar, familiarity, unfamiliar
    return Counts(labels.total(), labels, codes, total, histogram.tolist(), *known)


def _pairs(rows: pa.RecordBatch, keys: list[str]) -> dict[tuple[str | None, str | None], int]:
    """Count rows by true and predicted label."""
    counted = pa.table(rows.select(keys)).group_by(keys).aggregate([([], "count_all")])
    return {
        (group.get(LABEL_TRUE), group[LABEL]): group["count_all"] for group in counted.to_pylist()
    }


def summarize(
    job: Job,
    class_names: Sequence[str],
    shards: Sequence[int],
    counts: Counts,
    statistics: StepStatistics,
) -> JobSummary:
    """Return the summary of a job that ends now with the parts of these shards."""
    now = datetime.now(UTC)
    started = datetime.fromtimestamp(job.started or job.created, UTC)
    done, failed = counts.done, counts.errors.total()
    shown = shown_names(class_names, job.options)
    return {
        "job": job.id,
        "state": "cancelled" if job.state == "cancelling" else "done",
        "model": job.model,
        "source": job.source,
        "revision": job.revision,
        "total": job.total,
        "done": done,
        "failed": failed,
        "skipped": job.skipped,
        "skipped_files": job.skipped_files,
        "abstained": counts.with_label(None),
        "labels": {
            name: counts.with_label(label) for name, label in zip(class_names, shown, strict=True)
        },
        "errors": dict(counts.errors.most_common()),
        "mean_confidence": counts.confidence / done if done else None,
        "confidence_histogram": counts.histogram,
        "mean_familiarity": counts.familiarity / counts.familiar if counts.familiar else None,
        "unfamiliar": counts.unfamiliar if counts.familiar else None,
        **(agreement(counts.labels, shown) if job.options.labels else {}),
        "shards": job.shards,
        "parts": len(shards),
        "workers": statistics.workers,
        "started": started.isoformat(),
        "finished": now.isoformat(),
        "images_per_second": (done + failed) / max((now - started).total_seconds(), MIN_SECONDS),
        "seconds": {phase: round(statistics.seconds.get(phase, 0), 3) for phase in PHASES},
    }


def print_summary(summary: JobSummary) -> None:
    """Print a summary on the terminal."""
    print_sections({"": _facts(summary)})
    if summary.get("accuracy") is not None:
        _print_confusion([*summary["labels"]], summary["confusion_matrix"])
    _print_bars("class", [*summary["labels"]], [*summary["labels"].values()])
    edges = [f"{number / BINS:.1f} to {(number + 1) / BINS:.1f}" for number in range(BINS)]
    _print_bars("confidence", edges, summary["confidence_histogram"])


def _print_confusion(class_names: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    """Print a row for each true class; correct predictions are on the diagonal."""
    columns = [Column("\ntrue \\ given", class_names)]
    for index, name in enumerate(class_names):
        cells = [f"{row[index]:,}" if row[index] else "·" for row in matrix]
        columns.append(Column(f"\n{name}", cells, rank=1, justify="right"))
    print_table(columns, "The summary's file has all of it.")


def _print_bars(title: str, names: Sequence[str], numbers: Sequence[int]) -> None:
    """Print numbers with bars, of which the longest has `MAX_BAR` characters."""
    most = max(*numbers, 1)
    bars = ["█" * max(bool(n), round(MAX_BAR * n / most)) for n in numbers]
    shown = Column("images", [f"{n:,}" for n in numbers], justify="right")
    print_table([Column(f"\n{title}", names), shown, Column("", bars, rank=1)])


def _facts(summary: JobSummary) -> dict[str, str]:
    codes = ", ".join(f"{code}: {n:,}" for code, n in summary["errors"].items())
    seconds = ", ".join(f"{phase} {seconds:,.1f}" for phase, seconds in summary["seconds"].items())
    workers = len(summary["workers"])
    skipped = summary.get("skipped", 0)
    facts = {
        "model": summary["model"],
        "source": summary["source"],
        "images": f"{summary['done'] + summary['failed'] + skipped:,} of {summary['total']:,}",
        "errors": f"{summary['failed']:,}" + (f" ({codes})" if codes else ""),
        "shards": f"{summary['parts']:,} of {summary['shards']:,}, workers: {workers}",
        "seconds": f"{seconds}; summed over threads",
    }
    if skipped:
        facts["skipped"] = f"{skipped:,} ({describe(summary['skipped_files'])})"
    if summary["abstained"]:
        facts["abstained"] = f"{summary['abstained']:,}"
    if "accuracy" in summary:
        accuracy = "—" if summary["accuracy"] is None else f"{summary['accuracy']:.4f}"
        facts["accuracy"] = f"{accuracy} of {summary['labelled']:,} labelled"
    if summary["mean_confidence"] is not None:
        facts["confidence"] = f"{summary['mean_confidence']:.4f} on average"
    if summary.get("mean_familiarity") is not None:
        facts["familiarity"] = (
            f"{summary['mean_familiarity']:.4f} on average, {summary['unfamiliar']:,} unfamiliar"
        )
    return facts
