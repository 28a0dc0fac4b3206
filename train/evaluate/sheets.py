"""The pictures of a report that are sheets of small tiles: samples, mistakes, weights."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from loupe.images.spec import Float32Array, UInt8Array
from train.data.datasets import Int64Array
from train.evaluate.evaluation import Mistake
from train.evaluate.plots import MUTED, ORANGE, WIDTH, legible, picture
from train.evaluate.verdict import percent

PAPER = LinearSegmentedColormap.from_list(
    "paper", ["#f1f4f8", "#111827"]
)  # dark ink on a light tile
SIGNED = mpl.colormaps["RdBu_r"]  # white is nothing, red is for, blue is against

SAMPLES_ACROSS = 9
MISTAKES_ACROSS = 8
WEIGHTS_ACROSS = 5
FILTERS_ACROSS = 8
MAX_TILES = 64  # of weights or filters; more would be too small to see
NAME_LENGTH = 13  # characters that fit below a tile


@picture
def sample_sheet(images: UInt8Array, labels: Int64Array, class_names: Sequence[str]) -> Figure:
    """9 × 9 images with their labels, drawn evenly from all classes; fewer where there are not as many.

    Args:
        images: uint8, shape `(n, 28, 28)`.
        labels: int64, shape `(n,)`.
    """
    chosen = evenly(labels, SAMPLES_ACROSS**2)
    names = [legible(name, index, NAME_LENGTH) for index, name in enumerate(class_names)]
    return _sheet(
        images[chosen],
        [(names[label],) for label in labels[chosen]],
        SAMPLES_ACROSS,
        PAPER,
        (0, 255),
    )


def evenly(labels: Int64Array, count: int) -> Int64Array:
    """Indices of `count` images, as many of each class as there can be, class by class; always the same ones."""
    order = np.random.default_rng(0).permutation(len(labels))
    rank = np.empty(
        len(labels), np.int64
    )  # 0 for the first of its class in that order, 1 for the second …
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    chosen = np.lexsort((labels, rank))[:count]
    return np.asarray(chosen[np.argsort(labels[chosen], kind="stable")], np.int64)


@picture
def mistake_sheet(
    images: UInt8Array, mistakes: Sequence[Mistake], class_names: Sequence[str]
) -> Figure:
    """The images that were confidently taken for something else; below each what it is, what it was taken for, and how surely.

    Args:
        images: uint8, shape `(n, 28, 28)`: the whole test split, which the mistakes index.
        mistakes: At least one.
    """
    names = [legible(name, index, NAME_LENGTH - 2) for index, name in enumerate(class_names)]
    captions = [
        (
            f"is {names[mistake.true]}",
            f"→ {names[mistake.predicted]} ({_surely(mistake.confidence)})",
        )
        for mistake in mistakes
    ]
    return _sheet(
        images[[mistake.index for mistake in mistakes]], captions, MISTAKES_ACROSS, PAPER, (0, 255)
    )


def _surely(confidence: float) -> str:
    return ">99 %" if confidence >= 0.995 else percent(confidence, 0)


@picture
def weight_images(weights: Float32Array, class_names: Sequence[str]) -> Figure:
    """The weights of a single dense layer on pixels, as one image per class.

    Args:
        weights: float32, shape `(classes, 28, 28)`.
    """
    names = [legible(name, index, NAME_LENGTH) for index, name in enumerate(class_names)]
    limit = _limit(weights)
    return _sheet(
        weights[:MAX_TILES],
        [(name,) for name in names[:MAX_TILES]],
        WEIGHTS_ACROSS,
        SIGNED,
        (-limit, limit),
    )


@picture
def filters(kernels: Float32Array) -> Figure:
    """The first kernels of a convolution.

    Args:
        kernels: float32, shape `(filters, height, width)`.
    """
    limit = _limit(kernels)
    shown = kernels[:MAX_TILES]
    return _sheet(shown, [()] * len(shown), FILTERS_ACROSS, SIGNED, (-limit, limit))


def _limit(weights: Float32Array) -> float:
    """What is drawn in the fullest colour: nearly the largest weight, so that a single one does not pale the others."""
    return float(np.quantile(np.abs(weights), 0.99)) or 1.0


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
    longest = max((len(text) for caption in captions for text in caption), default=1)
    letter = pitch_x * inches * 72 / longest  # points; letters are on average 0.58 as wide as high
    size = float(np.clip(letter / 0.58, 6.5, 10))
    figure = Figure((width * inches, height * inches))
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = (number % across) * pitch_x + 0.08, (number // across) * pitch_y + 0.08
        axes.imshow(
            tile, colours, vmin=limits[0], vmax=limits[1], extent=(left, left + 1, top + 1, top)
        )
        for line, text in enumerate(caption):
            colour = ORANGE if line else MUTED
            axes.text(
                left + 0.5,
                top + 1.12 + 0.18 * line,
                text,
                ha="center",
                va="center",
                fontsize=size,
                color=colour,
            )
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure
