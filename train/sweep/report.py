"""The report on a sweep: tables, `summary.csv`, and one chart per varied parameter."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from loupe.drawing import INK
from loupe.files import write_atomically
from loupe.terminal import Column, console, print_table
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
    "train_accuracy": "train\naccuracy",
    "validation_accuracy": "validation\naccuracy",
    "test_accuracy": "test\naccuracy",
    "test_loss": "test\nloss",
    "seconds": "seconds",
}
RANKS = {"train_accuracy": 1, "test_loss": 3, "seconds": 2}  # left out first if too narrow
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


def print_ranking(sweep: Sweep, summaries: Sequence[SettingSummary]) -> None:
    """List the settings, the best first; long lists show only the first `MAX_ROWS`."""
    shown = summaries[:MAX_ROWS]
    validated = any("validation_accuracy" in summary.spreads for summary in summaries)
    names = ["setting"] if sweep.plan == "one-at-a-time" else list(map(as_words, sweep.varied))
    settings = [_described(sweep, summary.setting) for summary in shown]
    columns = [Column(name, [row[at] for row in settings]) for at, name in enumerate(names)]
    columns += [
        _figures(shown, measure)
        for measure in HEADINGS
        if validated or measure != "validation_accuracy"
    ]
    if any(summary.failed for summary in summaries):
        failures = [f"{each.failed} of {each.runs}" for each in shown]
        columns.append(Column("failed", failures, justify="right"))
    kind = "validation" if validated else "test"
    console.print(f"best {kind} accuracy first, over {sweep.seeds} seeds")
    print_table(columns, f"See: {SUMMARY_FILE}")
    if len(summaries) > MAX_ROWS:
        console.print(f"and {len(summaries) - MAX_ROWS:,} more in {SUMMARY_FILE}")


def _described(sweep: Sweep, setting: Setting) -> list[str]:
    """Return the varied values; with one parameter at a time, only the one that is not the base."""
    texts = {name: as_text(name, getattr(setting, name)) for name in sweep.varied}
    if sweep.plan != "one-at-a-time":
        return list(texts.values())
    base = sweep.base
    other = [name for name in texts if getattr(setting, name) != getattr(base, name)]
    return [f"{as_words(name)} {texts[name]}" for name in other] or ["base"]


def print_one_at_a_time(sweep: Sweep, results: Sequence[Result]) -> None:
    """Print a table of the values of each varied parameter; the base is marked."""
    for name in sweep.varied:
        base = sweep.values[name][0]
        rows = [
            (as_text(name, value) + (" (base)" if value == base else ""), summary)
            for value, runs in by_value(sweep, results, name).items()
            for summary in summarize(sweep, runs)
        ]
        summaries = [summary for _, summary in rows]
        console.print(f"{as_words(name)}, all else as in the base")
        print_table(
            [
                Column(as_words(name), [label for label, _ in rows]),
                _figures(summaries, "train_accuracy"),
                _figures(summaries, "test_accuracy"),
                Column("runs", [str(each.runs - each.failed) for each in summaries], 0, "right"),
            ]
        )
        console.print()


def _figures(summaries: Sequence[SettingSummary], measure: str) -> Column:
    cells = [_format(summary, measure) for summary in summaries]
    return Column(HEADINGS[measure], cells, RANKS.get(measure, 0), "right")


def _format(summary: SettingSummary, measure: str) -> str:
    spread = summary.spreads.get(measure)
    if measure in DIGITS:
        return format(spread.mean, DIGITS[measure]) if spread else ""
    return f"{spread.mean:.4f} ± {spread.deviation:.4f}" if spread else "failed"


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
