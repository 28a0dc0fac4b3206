"""The pictures of a report, each as the bytes of a PNG file.

They are drawn with matplotlib's objects rather than pyplot, so nothing stays open, no window system is asked for, and no style leaks.
"""

import io
from collections.abc import Callable, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from loupe.images import Float32Array, UInt8Array
from train.calibration import Bin
from train.datasets import Int64Array
from train.evaluation import Epoch, Mistake, validation_losses
from train.verdict import percent

Arguments = ParamSpec("Arguments")

DPI = 144  # twice the width at which the page shows them would be sharper, and heavy
WIDTH = 9.0  # inches, of a picture as wide as the page
FONT = "DejaVu Sans"  # comes with matplotlib, so pictures are the same everywhere

INK, MUTED, LINE = "#1f2933", "#6b7785", "#d9dfe6"
BLUE, ORANGE = "#2b6cb0", "#d9730d"  # told apart by every kind of colour vision
PAPER = LinearSegmentedColormap.from_list("paper", ["#f1f4f8", "#111827"])  # dark ink on a light tile
SIGNED = "RdBu_r"  # white is nothing, red is for, blue is against
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
        "font.family": [FONT],
        "font.size": 9.0,
        "grid.color": LINE,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "text.color": INK,
        "text.parse_math": False,  # a class may be called "$5"
        "xtick.color": MUTED,
        "xtick.major.size": 0.0,
        "ytick.color": MUTED,
        "ytick.major.size": 0.0,
    }
)

SAMPLES_ACROSS = 9
MISTAKES_ACROSS = 8
WEIGHTS_ACROSS = 5
FILTERS_ACROSS = 8
MOST_TILES = 64  # of weights or filters; more would be too small to see
MANY_EPOCHS = 30  # above which single points would hide the line
NUMBERED_CLASSES = 30  # above which a number no longer fits its cell
NAME_LENGTH = 20  # characters of a class name on an axis
TILE_NAME_LENGTH = 13  # characters that fit below a tile


def _picture(draw: Callable[Arguments, Figure]) -> Callable[Arguments, bytes]:
    """Draw in our style, which is gone afterwards, and encode."""

    @wraps(draw)
    def encoded(*arguments: Arguments.args, **options: Arguments.kwargs) -> bytes:
        with mpl.rc_context(STYLE):
            file = io.BytesIO()
            draw(*arguments, **options).savefig(file, format="png", dpi=DPI, metadata={"Software": None})
            return file.getvalue()

    return encoded


@_picture
def learning_curves(history: Sequence[Epoch], best_epoch: int) -> Figure:
    """Loss and accuracy of both splits over the epochs.

    Args:
        history: At least one epoch.
        best_epoch: The one whose weights were kept.
    """
    figure = Figure((WIDTH, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = validation_losses(history)
    _curves(left, "Loss", [epoch.loss for epoch in history], [epoch.validation_loss for epoch in history])
    _curves(right, "Accuracy", [epoch.accuracy for epoch in history], [epoch.validation_accuracy for epoch in history])
    right.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    for axes in (left, right):
        axes.axvline(
            best_epoch, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1.5, label=f"epoch {best_epoch}, kept"
        )
    if losses:
        lowest = int(np.argmin(losses))
        left.plot(
            [lowest + 1],
            [losses[lowest]],
            "o",
            color=ORANGE,
            markersize=8,
            fillstyle="none",
            label=f"lowest, epoch {lowest + 1}",
        )
    for axes in (left, right):
        axes.legend(loc="best", fontsize=8.5, labelcolor=MUTED)
    return figure


def _curves(axes: Axes, title: str, train: Sequence[float], validation: Sequence[float | None]) -> None:
    marker = "." if len(train) <= MANY_EPOCHS else ""
    epochs = np.arange(1, len(train) + 1)
    axes.plot(epochs, train, marker=marker, color=BLUE, linewidth=1.8, label="training")
    if None not in validation:
        axes.plot(epochs, np.array(validation, float), marker=marker, color=ORANGE, linewidth=1.8, label="validation")
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if len(train) == 1:
        axes.set_xlim(0.5, 1.5)


@_picture
def confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """What each class was taken for: counts, coloured by their share of the row.

    Args:
        matrix: Rows are true classes, columns predicted ones.
    """
    counts = np.array(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = float(np.clip(0.62 * len(counts), 3.2, 11))
    figure = Figure((side + 2.6, side + 1.2), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # a root shows a share of 1 % too
    names = [legible(name, index, NAME_LENGTH) for index, name in enumerate(class_names)]
    size = min(9.0, 330 / len(counts))
    upright = max(len(name) for name in names) <= 3
    axes.set_xticks(
        range(len(names)),
        names,
        fontsize=size,
        rotation=0 if upright else 45,
        ha="center" if upright else "right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5 if len(names) <= 12 else 0.6)
    axes.tick_params(which="minor", length=0)
    if len(counts) <= NUMBERED_CLASSES:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if shares[row, column] > 0.3 else INK
            axes.text(
                column,
                row,
                f"{counts[row, column]}",
                ha="center",
                va="center",
                color=colour,
                fontsize=min(size, 150 / len(counts)),
            )
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    bar.outline.set_visible(False)
    bar.set_label("share of the true class", fontsize=8.5)
    return figure


@_picture
def reliability_diagram(before: Sequence[Bin], after: Sequence[Bin], temperature: float) -> Figure:
    """Accuracy against confidence, before and after temperature scaling, and below each how many images a bin holds."""
    figure = Figure((WIDTH, 4.8), layout="constrained")
    grid = figure.subplots(2, 2, height_ratios=(3, 1), sharex=True, sharey="row")
    titles = ("Before scaling", f"After scaling, temperature {temperature:.2f}")
    for column, (title, bins) in enumerate(zip(titles, (before, after), strict=True)):
        _reliability(grid[0, column], title, bins)
        _bin_counts(grid[1, column], bins)
    grid[0, 0].set_ylabel("accuracy")
    grid[1, 0].set_ylabel("images")
    return figure


def _reliability(axes: Axes, title: str, bins: Sequence[Bin]) -> None:
    axes.bar(_middles(bins), [bar.accuracy for bar in bins], _widths(bins), color=BLUE, alpha=0.8, label="accuracy")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="perfectly calibrated")
    axes.plot(
        [bar.confidence for bar in bins],
        [bar.accuracy for bar in bins],
        ".",
        color=ORANGE,
        markersize=9,
        label="mean confidence",
    )
    axes.set_title(title)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, symbol=" %"))
    axes.legend(loc="upper left", fontsize=8.5, labelcolor=MUTED)


def _bin_counts(axes: Axes, bins: Sequence[Bin]) -> None:
    axes.bar(_middles(bins), [bar.count for bar in bins], _widths(bins), color=MUTED, alpha=0.55)
    axes.set_yscale("log")  # most images are in the last bin
    axes.set_ylim(0.7, None)
    for bar in bins:
        axes.text((bar.lower + bar.upper) / 2, bar.count * 1.15, f"{bar.count}", ha="center", fontsize=6.5, color=MUTED)
    axes.margins(y=0.25)
    axes.set_xlabel("confidence")


def _middles(bins: Sequence[Bin]) -> list[float]:
    return [(bar.lower + bar.upper) / 2 for bar in bins]


def _widths(bins: Sequence[Bin]) -> list[float]:
    return [(bar.upper - bar.lower) * 0.92 for bar in bins]


@_picture
def sample_sheet(images: UInt8Array, labels: Int64Array, class_names: Sequence[str]) -> Figure:
    """9 × 9 images with their labels, drawn evenly from all classes; fewer where there are not as many.

    Args:
        images: uint8, shape `(n, 28, 28)`.
        labels: int64, shape `(n,)`.
    """
    chosen = _evenly(labels, SAMPLES_ACROSS**2)
    names = [legible(name, index, TILE_NAME_LENGTH) for index, name in enumerate(class_names)]
    return _sheet(images[chosen], [(names[label],) for label in labels[chosen]], SAMPLES_ACROSS, PAPER, (0, 255))


def _evenly(labels: Int64Array, count: int) -> Int64Array:
    """Indices of `count` images, as many of each class as there can be, class by class; always the same ones."""
    order = np.random.default_rng(0).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # 0 for the first of its class in that order, 1 for the second …
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    chosen = np.lexsort((labels, rank))[:count]
    return np.asarray(chosen[np.argsort(labels[chosen], kind="stable")], np.int64)


@_picture
def mistake_sheet(images: UInt8Array, mistakes: Sequence[Mistake], class_names: Sequence[str]) -> Figure:
    """The images that were confidently taken for something else; below each what it is, what it was taken for, and how surely.

    Args:
        images: uint8, shape `(n, 28, 28)`: the whole test split, which the mistakes index.
        mistakes: At least one.
    """
    names = [legible(name, index, TILE_NAME_LENGTH - 3) for index, name in enumerate(class_names)]
    captions = [
        (f"is {names[mistake.true]}", f"→ {names[mistake.predicted]} {percent(mistake.confidence, 0)}")
        for mistake in mistakes
    ]
    return _sheet(images[[mistake.index for mistake in mistakes]], captions, MISTAKES_ACROSS, PAPER, (0, 255))


@_picture
def weight_images(weights: Float32Array, class_names: Sequence[str]) -> Figure:
    """The weights of a single dense layer on pixels, as one image per class.

    Args:
        weights: float32, shape `(classes, 28, 28)`.
    """
    names = [legible(name, index, TILE_NAME_LENGTH) for index, name in enumerate(class_names)]
    limit = _limit(weights)
    return _sheet(weights[:MOST_TILES], [(name,) for name in names], WEIGHTS_ACROSS, _map(SIGNED), (-limit, limit))


@_picture
def filters(kernels: Float32Array) -> Figure:
    """The first kernels of a convolution.

    Args:
        kernels: float32, shape `(filters, height, width)`.
    """
    limit = _limit(kernels)
    shown = kernels[:MOST_TILES]
    return _sheet(shown, [()] * len(shown), FILTERS_ACROSS, _map(SIGNED), (-limit, limit))


def _limit(weights: Float32Array) -> float:
    """What is drawn in the fullest colour: nearly the largest weight, so that a single one does not pale the others."""
    return float(np.quantile(np.abs(weights), 0.995)) or 1.0


def _map(name: str) -> Colormap:
    return mpl.colormaps[name]


def _sheet(
    tiles: NDArray[np.generic],
    captions: Sequence[tuple[str, ...]],
    across: int,
    colours: Colormap,
    limits: tuple[float, float],
) -> Figure:
    """Tiles in rows, in reading order, each 1 × 1 with its lines of caption below."""
    lines = max(map(len, captions))
    across = min(across, len(tiles))
    pitch_x, pitch_y = 1.16, 1.12 + 0.19 * lines
    width, height = across * pitch_x, -(-len(tiles) // across) * pitch_y
    inches = min(WIDTH / width, 1.25)  # a tile's side
    figure = Figure((width * inches, height * inches))
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = (number % across) * pitch_x + 0.08, (number // across) * pitch_y + 0.08
        axes.imshow(tile, colours, vmin=limits[0], vmax=limits[1], extent=(left, left + 1, top + 1, top))
        for line, text in enumerate(caption):
            colour = ORANGE if line else MUTED
            axes.text(left + 0.5, top + 1.12 + 0.18 * line, text, ha="center", va="center", fontsize=7.2, color=colour)
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure


def legible(name: str, index: int, length: int) -> str:
    """A class name that the pictures' font can write, not longer than `length`; `#index` if it cannot write it."""
    if not name.isprintable() or any(ord(character) not in _glyphs() for character in name):
        return f"#{index}"
    return name if len(name) <= length else name[: length - 1] + "…"


@cache
def _glyphs() -> frozenset[int]:
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return frozenset(FT2Font(str(path)).get_charmap())
