"""What a job has come to, for people: counted from its parts, written as JSON, printed as tables."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from loupe.jobs import ScoringOptions
from loupe.terminal import Column, print_sections, print_table
from worker.queue.jobs import Job
from worker.results import formats
from worker.results.labels import LABEL_TRUE, agreement
from worker.results.statistics import PHASES, StepStatistics
from worker.storage import AnyPath, local_copy

BINS = 10  # of the histogram of confidences: from 0.0 to 0.1, and so on
BAR = 24  # characters of the longest

Summary: TypeAlias = dict[str, Any]  # what is written as JSON


@dataclass(frozen=True)
class Counts:
    """What the parts of a job hold.

    Attributes:
        done: Rows.
        labels: Rows by true label and by label, of which either may be missing.
        errors: By their codes.
        confidence: Sum over all rows.
        histogram: Rows by confidence, in `BINS` bins of the same width from 0 to 1.
    """

    done: int
    labels: Counter[tuple[str | None, str | None]]
    errors: Counter[str]
    confidence: float
    histogram: list[int]

    def of_label(self, label: str | None) -> int:
        """Rows with this label, or with none."""
        return sum(n for (_, given), n in self.labels.items() if given == label)


def count(
    predictions: Iterable[AnyPath], errors: Iterable[AnyPath], options: ScoringOptions
) -> Counts:
    """Count the rows and errors in these files."""
    labels: Counter[tuple[str | None, str | None]] = Counter()
    codes: Counter[str] = Counter()
    confidence = 0.0
    histogram = np.zeros(BINS, np.int64)
    for file in predictions:
        with local_copy(file) as path:
            for rows in formats.read_labels(
                path, options.format, with_true=options.labels is not None
            ):
                labels.update(_pairs(rows))
                found = np.asarray(rows.column(formats.CONFIDENCE), dtype=np.float64)
                confidence += float(found.sum())
                histogram += np.histogram(found.clip(0, 1), BINS, (0, 1))[0]
    for file in errors:
        with file.open(encoding="utf-8") as lines:
            codes.update(json.loads(line)["code"] for line in lines)
    return Counts(labels.total(), labels, codes, confidence, histogram.tolist())


def _pairs(rows: pa.RecordBatch) -> dict[tuple[str | None, str | None], int]:
    """Rows by true label, where they have one, and by label."""
    keys = [name for name in (LABEL_TRUE, formats.LABEL) if name in rows.schema.names]
    counted = pa.table(rows.select(keys)).group_by(keys).aggregate([([], "count_all")]).to_pylist()
    return {(group.get(LABEL_TRUE), group[formats.LABEL]): group["count_all"] for group in counted}


def summarize(
    job: Job,
    class_names: Sequence[str],
    shards: Sequence[int],
    counts: Counts,
    figures: StepStatistics,
) -> Summary:
    """What is told of a job that ends now.

    Args:
        job: Its record.
        class_names: Of its model.
        shards: Those whose parts are there.
        counts: Of these parts.
        figures: Of its steps.
    """
    now = datetime.now(timezone.utc)
    started = datetime.fromtimestamp(job.started or job.created, timezone.utc)
    done, failed = counts.done, counts.errors.total()
    return {
        "job": job.id,
        "state": "cancelled" if job.state == "cancelling" else "done",
        "model": job.model,
        "source": job.source,
        "revision": job.revision,
        "total": job.total,
        "done": done,
        "failed": failed,
        "abstained": counts.of_label(None),
        "labels": {name: counts.of_label(name) for name in class_names},
        "errors": dict(counts.errors.most_common()),
        "mean_confidence": counts.confidence / done if done else None,
        "confidence_histogram": counts.histogram,
        **(agreement(counts.labels, class_names) if job.options.labels else {}),
        "shards": job.shards,
        "parts": len(shards),
        "workers": figures.workers,
        "started": started.isoformat(),
        "finished": now.isoformat(),
        "images_per_second": (done + failed) / (now - started).total_seconds(),
        "seconds": {phase: round(figures.seconds.get(phase, 0), 3) for phase in PHASES},
    }


def print_summary(summary: Summary) -> None:
    """Show a summary on the terminal."""
    print_sections({"": _facts(summary)})
    if summary.get("accuracy") is not None:
        _print_confusion([*summary["labels"]], summary["confusion_matrix"])
    bars = _bars(summary["labels"].values())
    numbers = [f"{n:,}" for n in summary["labels"].values()]
    print_table(
        [
            Column("\nclass", [*summary["labels"]]),
            Column("images", numbers, justify="right"),
            Column("", bars, rank=1),
        ]
    )
    histogram = summary["confidence_histogram"]
    edges = [f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}" for place in range(BINS)]
    numbers = [f"{n:,}" for n in histogram]
    print_table(
        [
            Column("\nconfidence", edges),
            Column("images", numbers, justify="right"),
            Column("", _bars(histogram), rank=1),
        ]
    )


def _print_confusion(class_names: Sequence[str], matrix: Sequence[Sequence[int]]) -> None:
    """Rows are true classes; the right ones stand on the diagonal."""
    columns = [
        Column(
            f"\n{name}",
            [f"{row[place]:,}" if row[place] else "·" for row in matrix],
            rank=1,
            justify="right",
        )
        for place, name in enumerate(class_names)
    ]
    print_table(
        [Column("\ntrue \\ given", class_names), *columns], "The summary's file has all of it."
    )


def _facts(summary: Summary) -> dict[str, str]:
    errors = f"{summary['failed']:,}{_listed(summary['errors'])}"
    seconds = ", ".join(f"{phase} {seconds:,.1f}" for phase, seconds in summary["seconds"].items())
    facts = {
        "model": summary["model"],
        "source": summary["source"],
        "images": f"{summary['done'] + summary['failed']:,} of {summary['total']:,}",
        "errors": errors,
        "shards": f"{summary['parts']:,} of {summary['shards']:,}, workers: {len(summary['workers'])}",
        "seconds": f"{seconds}; of all threads together",
    }
    if summary["abstained"]:
        facts["abstained"] = f"{summary['abstained']:,}"
    if "accuracy" in summary:
        accuracy = "—" if summary["accuracy"] is None else f"{summary['accuracy']:.4f}"
        facts["accuracy"] = f"{accuracy} of {summary['labelled']:,} labelled"
    if summary["mean_confidence"] is not None:
        facts["confidence"] = f"{summary['mean_confidence']:.4f} on average"
    return facts


def _listed(errors: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{code}: {n:,}' for code, n in errors.items())})" if errors else ""


def _bars(numbers: Iterable[int]) -> list[str]:
    """A bar for each number, the longest for the largest; some of it for whatever is more than nothing."""
    numbers = list(numbers)
    most = max(numbers, default=0)
    return ["█" * max(bool(n), round(BAR * n / most)) if most else "" for n in numbers]
