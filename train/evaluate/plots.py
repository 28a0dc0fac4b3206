"""The charts of a report as PNG files, and the style of all charts.

They use Matplotlib's objects instead of pyplot, which keeps figures open and changes global style.
"""

import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from loupe.drawing import INK, MUTED, ORANGE, families, legible
from train.evaluate.calibration import Bin
from train.evaluate.evaluation import Epoch, validation_losses

Arguments = ParamSpec("Arguments")

DPI = 144
WIDTH = 9.0  # inches; with `DPI`, 1.5 times the page's width in CSS pixels

LINE = "#d9dfe6"
DASHED = (0, (4, 3))
BLUE = "#2b6cb0"  # distinguishable from orange with all kinds of colour vision
STYLE = mpl.RcParams(
    {
        "axes.edgecolor": LINE,
        "axes.grid": True,
        "axes.labelcolor": MUTED,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.titlepad": 12.0,
        "axes.titlesize": 11.0,
        "axes.titleweight": "bold",
        "axes.axisbelow": True,
        "figure.facecolor": "white",
        "font.size": 9.0,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "legend.edgecolor": "none",
        "legend.framealpha": 0.9,
        "text.color": INK,
        "text.parse_math": False,  # a class may be called "$5"
        "xtick.color": MUTED,
        "xtick.major.size": 0.0,
        "ytick.color": MUTED,
        "ytick.major.size": 0.0,
    }
)

MAX_MARKERS = 30  # epochs; with more, markers hide the line
MAX_NUMBERED_CLASSES = 30  # with more, numbers do not fit the cells
MIN_BIN_IMAGES = 10  # with fewer, a bin's accuracy is mostly chance, and its bar is pale
MAX_NAME_LENGTH = 20  # characters of a class name on an axis


def picture(draw: Callable[Arguments, Figure]) -> Callable[Arguments, bytes]:
    """Make a function draw in our style and return a PNG file."""

    @wraps(draw)
    def encoded(*arguments: Arguments.args, **options: Arguments.kwargs) -> bytes:
        file = io.BytesIO()
        with mpl.rc_context({**STYLE, "font.family": families()}):
            figure = draw(*arguments, **options)
            figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        return file.getvalue()

    return encoded


@picture
def learning_curves(history: Sequence[Epoch], best_epoch: int) -> Figure:
    """Draw loss and accuracy of both splits over at least one epoch."""
    figure = Figure((WIDTH, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = validation_losses(history)
    accuracies = [epoch.validation_accuracy for epoch in history]
    _curves(left, "Loss", [epoch.loss for epoch in history], losses)
    _curves(right, "Accuracy", [epoch.accuracy for epoch in history], accuracies if losses else ())
    right.yaxis.set_major_formatter(as_percent)
    lowest = 1 + int(np.argmin(losses)) if losses else best_epoch
    if lowest != best_epoch:
        marker: dict[str, Any] = {"color": ORANGE, "markersize": 8, "fillstyle": "none"}
        label = f"lowest, epoch {lowest}"
        left.plot([lowest], [losses[lowest - 1]], "o", label=label, **marker)
    for axes in (left, right):
        line: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": DASHED, "zorder": 1.5}
        axes.axvline(best_epoch, label=f"epoch {best_epoch}, kept", **line)
        axes.legend(loc="best", fontsize=8.5, labelcolor=MUTED)
    return figure


def _curves(
    axes: Axes, title: str, train: Sequence[float], validation: Sequence[float | None]
) -> None:
    style: dict[str, Any] = {"marker": "." if len(train) <= MAX_MARKERS else "", "linewidth": 1.8}
    epochs = np.arange(1, len(train) + 1)
    axes.plot(epochs, train, color=BLUE, label="training", **style)
    if validation:
        axes.plot(epochs, np.array(validation, float), color=ORANGE, label="validation", **style)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10]))
    if len(train) == 1:
        axes.set_xlim(0.5, 1.5)
        axes.set_xticks([1])


@picture
def confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix: counts, coloured by their fraction of the row, the true class."""
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.62 * len(counts), 3.2, 11))
    figure = Figure((side + 2.6, side + 1.2), layout="constrained")
    axes = figure.subplots()
    # The square root makes a fraction of 1 % visible.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    names = [axis_label(name, index) for index, name in enumerate(class_names)]
    _label_axes(axes, names, side / len(names))
    if len(names) <= MAX_NUMBERED_CLASSES:
        _number_cells(axes, counts, shares)
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28, pad=0.02, ticks=ticks)
    bar.ax.yaxis.set_major_formatter(as_percent)
    bar.outline.set_visible(False)
    bar.set_label("fraction of the true class", fontsize=8.5)
    return figure


def _label_axes(axes: Axes, names: Sequence[str], cell: float) -> None:
    """Write the class names, slanted if they are wider than a cell (in inches), and draw a grid."""
    size = min(9.0, 330 / len(names))
    width = max(map(len, names)) * size * 0.65 / 72  # a letter is about two thirds as wide as high
    axes.set_xticks(range(len(names)), names, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    if width > cell:
        for label in axes.get_xticklabels():
            label.set(rotation=45, horizontalalignment="right", rotation_mode="anchor")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.spines[:].set_visible(False)
    axes.grid(False)
    ends = (-0.5, len(names) - 0.5)
    borders = np.arange(len(names)) - 0.5
    width = 1.5 if len(names) <= 12 else 0.6
    for draw_lines in (axes.hlines, axes.vlines):
        draw_lines(borders, *ends, color="white", linewidth=width)
    axes.set(xlim=ends, ylim=ends[::-1])


def _number_cells(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    style: dict[str, Any] = {
        "ha": "center",
        "va": "center",
        "fontsize": min(9.0, 240 / len(counts)),
    }
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.3 else INK
        axes.text(column, row, f"{counts[row, column]}", color=colour, **style)


@picture
def reliability_diagram(before: Sequence[Bin], after: Sequence[Bin], temperature: float) -> Figure:
    """Draw accuracy over confidence, and the bins' sizes, before and after temperature scaling."""
    figure = Figure((WIDTH, 4.9), layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True, sharey="row")
    titles = ("Before scaling", f"After scaling, temperature {temperature:.2f}")
    for column, (title, bins) in enumerate(zip(titles, (before, after), strict=True)):
        _reliability(grid[0, column], title, bins)
        _bin_counts(grid[1, column], bins)
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("images")
    largest = max(bar.count for bar in (*before, *after))
    grid[1, 0].set_ylim(0.7, 8 * largest)  # leaves room for the numbers
    accuracy = Patch(color=BLUE, alpha=0.7, label="accuracy")
    others, _ = grid[0, 0].get_legend_handles_labels()
    handles = [accuracy, *others]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, labelcolor=MUTED)
    return figure


def _reliability(axes: Axes, title: str, bins: Sequence[Bin]) -> None:
    bars = _bars(axes, bins, [bar.accuracy for bar in bins], color=BLUE)
    for drawn, bar in zip(bars, bins, strict=True):
        drawn.set_alpha(0.7 if bar.count >= MIN_BIN_IMAGES else 0.2)
    ideal: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": DASHED}
    axes.plot([0, 1], [0, 1], label="perfectly calibrated", **ideal)
    confidences, accuracies = [bar.confidence for bar in bins], [bar.accuracy for bar in bins]
    gap: dict[str, Any] = {"color": ORANGE, "linewidth": 2.5}
    axes.vlines(confidences, accuracies, confidences, label="calibration gap", **gap)
    axes.set_title(title)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(as_percent)


def _bin_counts(axes: Axes, bins: Sequence[Bin]) -> None:
    bars = _bars(axes, bins, [bar.count for bar in bins], color=MUTED, alpha=0.45)
    axes.bar_label(bars, fmt="%d", padding=2, fontsize=6.5, color=MUTED)
    axes.set_yscale("log")  # most images are in the last bin
    axes.set_yticks([], [])
    axes.set_yticks([], [], minor=True)
    axes.set_xlabel("confidence")


def _bars(axes: Axes, bins: Sequence[Bin], heights: Sequence[float], **style: Any) -> BarContainer:
    """Draw one bar per bin, with a gap between neighbours."""
    middles = [(bar.lower + bar.upper) / 2 for bar in bins]
    return axes.bar(middles, heights, [(bar.upper - bar.lower) * 0.92 for bar in bins], **style)


def as_percent(share: float, position: float) -> str:
    """Format a tick of an axis."""
    return f"{share * 100:.4g} %"


def axis_label(name: str, index: int) -> str:
    """Return a class name cut to `MAX_NAME_LENGTH`, or `#index` if no font can write it."""
    name = legible(name, index)
    return name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
