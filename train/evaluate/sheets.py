"""The pictures of a report that are sheets of tiles: samples, mistakes, weights and filters."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from numpy.typing import NDArray

from loupe.drawing import MEDIUM, ORANGE, Text, Tile, TileSheet, legible
from loupe.images.spec import Float32Array, Look, UInt8Array
from train.data.datasets import Int64Array
from train.evaluate.evaluation import Mistake
from train.evaluate.verdict import percent

PAPER = LinearSegmentedColormap.from_list("paper", ["#f1f4f8", "#111827"])  # dark ink, light tile
SIGNED = mpl.colormaps["RdBu_r"]  # blue is negative, white is 0, red is positive

SAMPLES_PER_ROW, SAMPLE_SIDE = 9, 112  # tiles, pixels
MISTAKES_PER_ROW, MISTAKE_SIDE = 8, 140
WEIGHTS_PER_ROW, WEIGHT_SIDE = 5, 196
FILTERS_PER_ROW, FILTER_SIDE = 8, 112
MAX_TILES = 64  # weights or filters


def sample_sheet(
    images: UInt8Array, labels: Int64Array, class_names: Sequence[str], look: Look
) -> bytes:
    """Draw up to 81 images, uint8 `(n, height, width[, 3])`, from all classes evenly."""
    chosen = choose_evenly(labels, SAMPLES_PER_ROW**2)
    tiles = [
        Tile(_shown(image, look), below=[_caption(label, class_names)])
        for image, label in zip(images[chosen], labels[chosen].tolist(), strict=True)
    ]
    return _sheet(tiles, SAMPLES_PER_ROW, SAMPLE_SIDE)


def choose_evenly(labels: Int64Array, count: int) -> Int64Array:
    """Return the indices of `count` images, sorted by class, with as equal numbers as possible."""
    order = np.random.default_rng(0).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # 0 for a class's first image in that order, then 1, 2 …
    for label in np.unique(labels):
        of_class = order[labels[order] == label]
        rank[of_class] = np.arange(len(of_class))
    chosen = np.lexsort((labels, rank))[:count]
    return np.asarray(chosen[np.argsort(labels[chosen], kind="stable")], np.int64)


def mistake_sheet(
    images: UInt8Array, mistakes: Sequence[Mistake], class_names: Sequence[str], look: Look
) -> bytes:
    """Draw mistakes with the true class, the predicted class and its confidence.

    `images` are the whole test split, uint8 `(n, height, width[, 3])`.
    """
    tiles = []
    for mistake in mistakes:
        predicted = legible(class_names[mistake.predicted], mistake.predicted)
        sure = mistake.confidence >= 0.995
        confidence = ">99 %" if sure else percent(mistake.confidence, 0)
        below = [
            _caption(mistake.true, class_names),
            Text(f"→ {predicted}", MEDIUM, ORANGE),
            Text(confidence, MEDIUM, ORANGE),
        ]
        tiles.append(Tile(_shown(images[mistake.index], look), below=below))
    return _sheet(tiles, MISTAKES_PER_ROW, MISTAKE_SIDE)


def weight_images(weights: Float32Array, class_names: Sequence[str]) -> bytes:
    """Draw the weights of softmax regression, float32 `(classes, height, width)`."""
    limit = _colour_limit(weights)
    tiles = [
        Tile(_colour(image, SIGNED, -limit, limit), below=[_caption(label, class_names)])
        for label, image in enumerate(weights[:MAX_TILES])
    ]
    return _sheet(tiles, WEIGHTS_PER_ROW, WEIGHT_SIDE)


def filters(kernels: Float32Array) -> bytes:
    """Draw the first kernels of a convolution: float32, shape `(filters, height, width)`."""
    limit = _colour_limit(kernels)
    tiles = [Tile(_colour(kernel, SIGNED, -limit, limit)) for kernel in kernels[:MAX_TILES]]
    return _sheet(tiles, FILTERS_PER_ROW, FILTER_SIDE)


def _sheet(tiles: Sequence[Tile], columns: int, side: int) -> bytes:
    return TileSheet(tiles, min(columns, len(tiles)), side).png()


def _shown(image: UInt8Array, look: Look) -> UInt8Array:
    """Return a photo as it is, and ink and objects as dark ink on light paper."""
    return image if look == "photo" else _colour(image, PAPER, 0, 255)


def _caption(label: int, class_names: Sequence[str]) -> Text:
    return Text(legible(class_names[label], label), MEDIUM)


def _colour(values: NDArray[np.generic], colours: Colormap, low: float, high: float) -> UInt8Array:
    """Return a picture of an array, uint8 `(height, width, 3)`, with colours from low to high.

    Images in colour stay as they are.
    """
    if values.ndim == 3:
        return values.astype(np.uint8)
    scaled = (values.astype(np.float64) - low) / (high - low)
    return np.asarray(colours(scaled, bytes=True)[..., :3], np.uint8)


def _colour_limit(weights: Float32Array) -> float:
    """Return the weight with the fullest colour, a high quantile that ignores outliers."""
    return float(np.quantile(np.abs(weights), 0.99)) or 1.0
