"""What a sweep came to: tables, `summary.csv`, and one picture for each parameter that was varied."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from rich.box import SIMPLE_HEAD
from rich.table import Table

from loupe.old_errors.train import FileNotWritable
from train.evaluate.plots import BLUE, INK, WIDTH, as_percent, picture
from train.sweep.sweeps import (
    Result,
    Setting,
    Spread,
    Summary,
    Sweep,
    Value,
    as_text,
    by_value,
    summarize,
)

SUMMARY_FILE = "summary.csv"
LISTED = 20  # settings in the table on the terminal; the file has all
HIGHEST = 1.015  # end of the axis of accuracies: a spread may reach above 1, an accuracy does not
DOT_SPREAD = (
    0.12  # of the distance between two values, to each side: runs with the same accuracy stay apart
)


def write_report(folder: Path, sweep: Sweep, results: Sequence[Result]) -> tuple[Path, ...]:
    """Write `summary.csv` and a PNG file for each varied parameter; gives their places.

    Raises:
        FileNotWritable: If one cannot be written.
    """
    place = folder / SUMMARY_FILE
    written = [place]
    try:
        with place.open("w", encoding="utf-8", newline="") as file:
            _write_summary(file, sweep, summarize(sweep, results))
        for name in sweep.varied:
            place = folder / f"{name}.png"
            place.write_bytes(accuracy_by_value(name, by_value(sweep, results, name)))
            written.append(place)
    except OSError as error:
        raise FileNotWritable(str(place), str(error)) from error
    return tuple(written)


def ranking(sweep: Sweep, summaries: Sequence[Summary]) -> Table:
    """The settings, the best first, of many only the first `LISTED`."""
    validated = any(summary.validation_accuracy for summary in summaries)
    chosen = "validation" if validated else "test"
    failed = any(summary.failed for summary in summaries)
    settings = (
        ["setting"] if sweep.plan == "one-at-a-time" else [as_words(name) for name in sweep.varied]
    )
    figures = [
        "train %",
        *(["validation %"] if validated else []),
        "test %",
        "test loss",
        "seconds",
    ]
    rows = [
        [
            *_described(sweep, summary.setting),
            _percent(summary.train_accuracy),
            *([_percent(summary.validation_accuracy)] if validated else []),
            _percent(summary.test_accuracy),
            f"{summary.test_loss.mean:.3f}" if summary.test_loss else "",
            f"{summary.seconds.mean:.1f}" if summary.seconds else "",
            *([f"{summary.failed} of {summary.runs}"] if failed else []),
        ]
        for summary in summaries[:LISTED]
    ]
    table = Table(
        title=f"best {chosen} accuracy first, over {sweep.seeds} seeds",
        title_justify="left",
        box=SIMPLE_HEAD,  # three varied parameters fit 80 columns
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for number, heading in enumerate([*settings, *figures, *(["failed"] if failed else [])]):
        width = max(
            map(len, [*heading.split(), *(row[number] for row in rows)])
        )  # no number is broken
        table.add_column(
            heading, justify="left" if number < len(settings) else "right", width=width
        )
    for row in rows:
        table.add_row(*row)
    if len(summaries) > LISTED:
        table.caption = f"and {len(summaries) - LISTED:,} more in {SUMMARY_FILE}"
    return table


def one_at_a_time(sweep: Sweep, results: Sequence[Result]) -> Iterator[Table]:
    """For each varied parameter a table of its values; the base is marked."""
    for name in sweep.varied:
        table = Table(title=f"{as_words(name)}, all else as in the base", title_justify="left")
        table.add_column(as_words(name))
        for column in ("train %", "test %", "runs"):
            table.add_column(column, justify="right")
        for value, runs in by_value(sweep, results, name).items():
            scores = [run.scores for run in runs if run.scores]
            train = Spread.of([score.train_accuracy for score in scores]) if scores else None
            test = Spread.of([score.test_accuracy for score in scores]) if scores else None
            base = " (base)" if value == sweep.values[name][0] else ""
            table.add_row(
                as_text(name, value) + base, _percent(train), _percent(test), str(len(scores))
            )
        yield table


@picture
def accuracy_by_value(name: str, runs: Mapping[Value, Sequence[Result]]) -> Figure:
    """Test accuracy by the values of a parameter: each training a dot, with the mean and its spread.

    Args:
        name: Of the parameter, as in `train.sweeps.Sweep.values`.
        runs: The trainings with each value, from left to right.
    """
    figure = Figure((min(WIDTH, 3 + len(runs)), 4.2), layout="constrained")
    axes = figure.subplots()
    places = _places(axes, name, list(runs))
    for (left, middle, right), results in zip(places, runs.values(), strict=True):
        accuracies = [result.scores.test_accuracy for result in results if result.scores]
        if not accuracies:
            continue
        spread = Spread.of(accuracies)
        dots = [middle] if len(accuracies) == 1 else np.linspace(left, right, len(accuracies))
        axes.plot(dots, accuracies, "o", color=BLUE, alpha=0.45, markersize=5, markeredgewidth=0)
        axes.errorbar(
            middle,
            spread.mean,
            spread.deviation,
            fmt="_",
            color=INK,
            markersize=22,
            capsize=5,
            linewidth=1.4,
        )
        axes.annotate(
            f"{100 * spread.mean:.1f}",
            (right, spread.mean),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=INK,
        )
    axes.set_title(f"Test accuracy by {as_words(name)}")
    axes.set_xlabel(f"{as_words(name)};  • one training,  — mean ± standard deviation")
    axes.yaxis.set_major_formatter(as_percent)
    axes.set_ylim(top=min(axes.get_ylim()[1], HIGHEST))
    axes.grid(axis="x", visible=False)
    return figure


def _places(axes: Axes, name: str, values: Sequence[Value]) -> list[tuple[float, float, float]]:
    """Where each value is on the axis, with the ends of its row of dots: learning rates by their logarithm, all else one by one."""
    if name == "learning_rate":
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        positions = np.array(values, float)
        logs = np.log(positions)
        step = float(np.diff(np.sort(logs)).min()) * DOT_SPREAD
        rows = [tuple(float(np.exp(log + side * step)) for side in (-1, 0, 1)) for log in logs]
        axes.set_xlim(float(np.exp(logs.min() - 4 * step)), float(np.exp(logs.max() + 6 * step)))
    else:
        positions = np.arange(len(values), dtype=float)
        rows = [
            tuple(float(position + side * DOT_SPREAD) for side in (-1, 0, 1))
            for position in positions
        ]
        axes.set_xlim(-0.5, len(values) - 0.4)
    axes.xaxis.set_major_locator(FixedLocator(positions.tolist()))
    axes.set_xticklabels([as_text(name, value) for value in values])
    return [(left, middle, right) for left, middle, right in rows]


def as_words(name: str) -> str:
    """A parameter's name for people."""
    return "hidden layers" if name == "hidden" else name.replace("_", " ")


def _described(sweep: Sweep, setting: Setting) -> list[str]:
    """The varied values, or of one parameter at a time the one that is not the base's."""
    texts = {name: as_text(name, setting.value(name)) for name in sweep.varied}
    if sweep.plan != "one-at-a-time":
        return list(texts.values())
    base = sweep.base
    other = [
        f"{as_words(name)} {text}"
        for name, text in texts.items()
        if setting.value(name) != base.value(name)
    ]
    return other or ["base"]


def _write_summary(file: TextIO, sweep: Sweep, summaries: Sequence[Summary]) -> None:
    measures = ("train_accuracy", "validation_accuracy", "test_accuracy", "test_loss", "seconds")
    writer = csv.writer(file, lineterminator="\n")
    headings = [f"{measure}_{what}" for measure in measures for what in ("mean", "deviation")]
    writer.writerow([*sweep.values, "runs", "failed", *headings])
    for summary in summaries:
        spreads: list[Spread | None] = [getattr(summary, measure) for measure in measures]
        numbers = [number for spread in spreads for number in _pair(spread)]
        values = [as_text(name, summary.setting.value(name)) for name in sweep.values]
        writer.writerow([*values, summary.runs, summary.failed, *numbers])


def _pair(spread: Spread | None) -> tuple[str, str]:
    return (f"{spread.mean:.6f}", f"{spread.deviation:.6f}") if spread else ("", "")


def _percent(spread: Spread | None) -> str:
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" if spread else "failed"
