"""The report on a sweep: tables, `summary.csv`, and one chart per varied parameter."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from rich.box import SIMPLE_HEAD
from rich.table import Table

from loupe.drawing import INK
from loupe.files import write_atomically
from train.evaluate.plots import BLUE, WIDTH, as_percent, picture
from train.sweep.results import translate_write_errors
from train.sweep.sweeps import (
    Result,
    Setting,
    SettingSummary,
    Spread,
    Sweep,
    Value,
    as_text,
    by_value,
    summarize,
)

SUMMARY_FILE = "summary.csv"
MAX_ROWS = 20  # settings in the table on the terminal; the file has all
MAX_ACCURACY = 1.015  # upper end of the axis; error bars may reach above 1, accuracies do not
HEADINGS = {
    "train_accuracy": "train %",
    "validation_accuracy": "validation %",
    "test_accuracy": "test %",
    "test_loss": "test loss",
    "seconds": "seconds",
}
DIGITS = {"test_loss": ".3f", "seconds": ".1f"}
DOT_SPREAD = 0.12  # half the width of a row of dots, as a fraction of the distance of two values


def write_report(folder: Path, sweep: Sweep, results: Sequence[Result]) -> tuple[Path, ...]:
    """Write `summary.csv` and a PNG file for each varied parameter, and return their paths."""
    charts = [folder / f"{name}.png" for name in sweep.varied]
    summary = folder / SUMMARY_FILE
    with translate_write_errors(summary):
        write_atomically(summary, _encode_summary(sweep, summarize(sweep, results)))
        for name, chart in zip(sweep.varied, charts, strict=True):
            chart.write_bytes(accuracy_by_value(name, by_value(sweep, results, name)))
    return summary, *charts


def ranking(sweep: Sweep, summaries: Sequence[SettingSummary]) -> Table:
    """List the settings, the best first; long lists show only the first `MAX_ROWS`."""
    validated = any("validation_accuracy" in summary.spreads for summary in summaries)
    chosen = "validation" if validated else "test"
    table = Table(
        title=f"best {chosen} accuracy first, over {sweep.seeds} seeds",
        title_justify="left",
        box=SIMPLE_HEAD,  # three varied parameters fit 80 columns
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    shown = summaries[:MAX_ROWS]
    names = ["setting"] if sweep.plan == "one-at-a-time" else list(map(as_words, sweep.varied))
    settings = [_described(sweep, summary.setting) for summary in shown]
    columns = {name: [cells[at] for cells in settings] for at, name in enumerate(names)}
    figures = {
        heading: [_format(summary, measure) for summary in shown]
        for measure, heading in HEADINGS.items()
        if validated or measure != "validation_accuracy"
    }
    if any(summary.failed for summary in summaries):
        figures["failed"] = [f"{each.failed} of {each.runs}" for each in shown]
    for heading, cells in {**columns, **figures}.items():
        width = max(map(len, [*heading.split(), *cells]))  # breaks headings, but no number
        table.add_column(heading, justify="left" if heading in columns else "right", width=width)
    for row in zip(*columns.values(), *figures.values(), strict=True):
        table.add_row(*row)
    if len(summaries) > MAX_ROWS:
        table.caption = f"and {len(summaries) - MAX_ROWS:,} more in {SUMMARY_FILE}"
    return table


def one_at_a_time(sweep: Sweep, results: Sequence[Result]) -> Iterator[Table]:
    """Yield a table of the values of each varied parameter; the base is marked."""
    for name in sweep.varied:
        table = Table(title=f"{as_words(name)}, all else as in the base", title_justify="left")
        table.add_column(as_words(name))
        for column in ("train %", "test %", "runs"):
            table.add_column(column, justify="right")
        for value, runs in by_value(sweep, results, name).items():
            base = value == sweep.values[name][0]
            label = as_text(name, value) + (" (base)" if base else "")
            for summary in summarize(sweep, runs):
                table.add_row(
                    label,
                    _format(summary, "train_accuracy"),
                    _format(summary, "test_accuracy"),
                    str(summary.runs - summary.failed),
                )
        yield table


@picture
def accuracy_by_value(name: str, runs: Mapping[Value, Sequence[Result]]) -> Figure:
    """Draw the test accuracies by the values of a parameter, with mean and standard deviation.

    Args:
        name: The parameter, as in `Sweep.values`.
        runs: The results with each value, from left to right.
    """
    figure = Figure((min(WIDTH, 3 + len(runs)), 4.2), layout="constrained")
    axes = figure.subplots()
    positions = _positions(axes, name, list(runs))
    for (left, middle, right), results in zip(positions, runs.values(), strict=True):
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
        label, end = f"{100 * spread.mean:.1f}", (right, spread.mean)
        axes.annotate(label, end, (7, 0), textcoords="offset points", va="center", color=INK)
    axes.set_title(f"Test accuracy by {as_words(name)}")
    axes.set_xlabel(f"{as_words(name)};  • one training,  — mean ± standard deviation")
    axes.yaxis.set_major_formatter(as_percent)
    axes.set_ylim(top=min(axes.get_ylim()[1], MAX_ACCURACY))
    axes.grid(axis="x", visible=False)
    return figure


def _positions(axes: Axes, name: str, values: Sequence[Value]) -> list[tuple[float, float, float]]:
    """Place the values on the axis, and return the left end, middle and right end of their dots.

    Learning rates are placed by their logarithm, all other values at equal distances.
    """
    logarithmic = name == "learning_rate"
    points = np.log(np.array(values, float)) if logarithmic else np.arange(len(values), dtype=float)
    step = float(np.diff(np.sort(points)).min())
    rows = points[:, None] + np.array([-1, 0, 1]) * step * DOT_SPREAD
    limits = np.array([points.min() - 0.5 * step, points.max() + 0.7 * step])
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        rows, limits = np.exp(rows), np.exp(limits)
    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(FixedLocator(rows[:, 1].tolist()))
    axes.set_xticklabels([as_text(name, value) for value in values])
    return [(left, middle, right) for left, middle, right in rows.tolist()]


def as_words(name: str) -> str:
    """Return the name of a parameter for people."""
    return "hidden layers" if name == "hidden" else name.replace("_", " ")


def _described(sweep: Sweep, setting: Setting) -> list[str]:
    """Return the varied values; with one parameter at a time, only the one that is not the base."""
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


def _encode_summary(sweep: Sweep, summaries: Sequence[SettingSummary]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    headings = [f"{measure}_{part}" for measure in HEADINGS for part in ("mean", "deviation")]
    writer.writerow([*sweep.values, "runs", "failed", *headings])
    for summary in summaries:
        values = [as_text(name, summary.setting.value(name)) for name in sweep.values]
        spreads = [summary.spreads.get(measure) for measure in HEADINGS]
        pairs = [(each.mean, each.deviation) if each else None for each in spreads]
        numbers = [f"{number:.6f}" if pair else "" for pair in pairs for number in pair or ("", "")]
        writer.writerow([*values, summary.runs, summary.failed, *numbers])
    return text.getvalue()


def _format(summary: SettingSummary, measure: str) -> str:
    spread = summary.spreads.get(measure)
    if measure in DIGITS:
        return format(spread.mean, DIGITS[measure]) if spread else ""
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" if spread else "failed"
