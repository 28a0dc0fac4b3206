"""The report on a sweep: tables, `summary.csv`, and one chart per varied parameter."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

from loupe.drawing import INK
from loupe.files import write_atomically
from train.config import Setting
from train.evaluate.plots import BLUE, WIDTH, as_percent, picture
from train.sweep.study import csv_lines, translate_write_errors
from train.sweep.sweeps import (
    Result,
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
    summary = folder / SUMMARY_FILE
    charts = {folder / f"{name}.png": name for name in sweep.varied}
    with translate_write_errors(summary):
        write_atomically(summary, _encode_summary(sweep, summarize(sweep, results)))
        for chart, name in charts.items():
            chart.write_bytes(accuracy_by_value(name, by_value(sweep, results, name)))
    return summary, *charts


def _encode_summary(sweep: Sweep, summaries: Sequence[SettingSummary]) -> str:
    measures = [f"{measure}_{part}" for measure in HEADINGS for part in ("mean", "deviation")]
    rows: list[list[object]] = [[*sweep.values, "runs", "failed", *measures]]
    for summary in summaries:
        values = [as_text(name, getattr(summary.setting, name)) for name in sweep.values]
        spreads = [summary.spreads.get(measure) for measure in HEADINGS]
        pairs = [(f"{s.mean:.6f}", f"{s.deviation:.6f}") if s else ("", "") for s in spreads]
        rows.append([*values, summary.runs, summary.failed, *(n for pair in pairs for n in pair)])
    return csv_lines(rows)


def ranking(sweep: Sweep, summaries: Sequence[SettingSummary]) -> Table:
    """List the settings, the best first; long lists show only the first `MAX_ROWS`."""
    shown = summaries[:MAX_ROWS]
    validated = any("validation_accuracy" in summary.spreads for summary in summaries)
    names = ["setting"] if sweep.plan == "one-at-a-time" else list(map(as_words, sweep.varied))
    settings = [_described(sweep, summary.setting) for summary in shown]
    columns = {name: [cells[at] for cells in settings] for at, name in enumerate(names)}
    for measure, heading in HEADINGS.items():
        if validated or measure != "validation_accuracy":
            columns[heading] = [_format(summary, measure) for summary in shown]
    if any(summary.failed for summary in summaries):
        columns["failed"] = [f"{each.failed} of {each.runs}" for each in shown]
    table = Table(
        title=f"best {'validation' if validated else 'test'} accuracy first, "
        f"over {sweep.seeds} seeds",
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # three varied parameters fit 80 columns
    )
    for heading, cells in columns.items():
        width = max(map(len, [*heading.split(), *cells]))  # breaks headings, but no number
        table.add_column(heading, justify="left" if heading in names else "right", width=width)
    for row in zip(*columns.values(), strict=True):
        table.add_row(*row)
    if len(summaries) > MAX_ROWS:
        table.caption = f"and {len(summaries) - MAX_ROWS:,} more in {SUMMARY_FILE}"
    return table


def _described(sweep: Sweep, setting: Setting) -> list[str]:
    """Return the varied values; with one parameter at a time, only the one that is not the base."""
    texts = {name: as_text(name, getattr(setting, name)) for name in sweep.varied}
    if sweep.plan != "one-at-a-time":
        return list(texts.values())
    base = sweep.base
    other = [name for name in texts if getattr(setting, name) != getattr(base, name)]
    return [f"{as_words(name)} {texts[name]}" for name in other] or ["base"]


def one_at_a_time(sweep: Sweep, results: Sequence[Result]) -> Iterator[Table]:
    """Yield a table of the values of each varied parameter; the base is marked."""
    for name in sweep.varied:
        title = f"{as_words(name)}, all else as in the base"
        table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False)
        table.add_column(as_words(name))
        for column in ("train %", "test %", "runs"):
            table.add_column(column, justify="right")
        for value, runs in by_value(sweep, results, name).items():
            label = as_text(name, value) + (" (base)" if value == sweep.values[name][0] else "")
            for summary in summarize(sweep, runs):
                accuracies = [
                    _format(summary, each) for each in ("train_accuracy", "test_accuracy")
                ]
                table.add_row(label, *accuracies, str(summary.runs - summary.failed))
        yield table


def _format(summary: SettingSummary, measure: str) -> str:
    spread = summary.spreads.get(measure)
    if measure in DIGITS:
        return format(spread.mean, DIGITS[measure]) if spread else ""
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}" if spread else "failed"


@picture
def accuracy_by_value(name: str, runs: Mapping[Value, Sequence[Result]]) -> Figure:
    """Draw the test accuracies by the values of a parameter, with mean and standard deviation.

    Learning rates are placed by their logarithm, all other values at equal distances.

    Args:
        name: The parameter, as in `Sweep.values`.
        runs: The results with each value, from left to right.
    """
    values = list(runs)
    points: NDArray[np.float64] = (
        np.log(values) if name == "learning_rate" else np.arange(len(values), dtype=np.float64)
    )
    step = float(np.diff(np.sort(points)).min())
    figure = Figure((min(WIDTH, 3 + len(values)), 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(points.min() - 0.5 * step, points.max() + 0.7 * step)
    axes.set_xticks(points, [as_text(name, value) for value in values])
    for point, results in zip(points, runs.values(), strict=True):
        accuracies = [result.scores.test_accuracy for result in results if result.scores]
        if not accuracies:
            continue
        spread, reach = Spread.of(accuracies), step * DOT_SPREAD
        dots = point + np.linspace(-reach, reach, len(accuracies)) * (len(accuracies) > 1)
        axes.plot(dots, accuracies, "o", color=BLUE, alpha=0.45, markersize=5, markeredgewidth=0)
        axes.errorbar(
            point,
            spread.mean,
            spread.deviation,
            fmt="_",
            color=INK,
            markersize=22,
            capsize=5,
            linewidth=1.4,
        )
        label, end = f"{100 * spread.mean:.1f}", (point + reach, spread.mean)
        axes.annotate(label, end, (7, 0), textcoords="offset points", va="center", color=INK)
    axes.set_title(f"Test accuracy by {as_words(name)}")
    axes.set_xlabel(f"{as_words(name)};  • one training,  — mean ± standard deviation")
    axes.yaxis.set_major_formatter(as_percent)
    axes.set_ylim(top=min(axes.get_ylim()[1], MAX_ACCURACY))
    axes.grid(axis="x", visible=False)
    return figure


def as_words(name: str) -> str:
    """Return the name of a parameter for people."""
    return "hidden layers" if name == "hidden" else name.replace("_", " ")
