"""A picture of samples of a data set: one row per class."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.drawing import families
from loupe.errors import NotWritable
from loupe.images.spec import UInt8Array
from train.data.splits import Dataset

COLUMNS = 16  # samples of each class
SAMPLE_SIDE = 56  # pixels of the sheet; what is smaller is enlarged by a whole number
GAP = 2  # pixels between samples
ROW_GAP = 8  # pixels between rows
MARGIN = 16  # pixels around everything
HEADING = 64  # pixels for the title
MIN_NAME_WIDTH = 96  # pixels for the names of the classes
CHARACTER = 8  # pixels of one character of a name, on average
MAX_NAME_LENGTH = 30  # characters; longer ones are cut
DPI = 100
WHITE = 255
INK, PALE = "#1f2933", "#6b7785"


@dataclass(frozen=True)
class Text:
    """Words at the left margin, their middle so many pixels below the upper edge."""

    middle: int
    words: str
    points: float
    color: str


def save_contact_sheet(dataset: Dataset, path: Path, seed: int = 0) -> None:
    """Write a PNG with samples of the train split, drawn at random but always the same ones.

    Raises:
        NotWritable: If the file cannot be written.
    """
    data = contact_sheet(dataset, seed)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise NotWritable(f"Cannot write '{path}': {error.strerror}.") from error


def contact_sheet(dataset: Dataset, seed: int = 0) -> bytes:
    """The bytes of that PNG."""
    names = [
        name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…"
        for name in dataset.class_names
    ]
    left = 2 * MARGIN + max(MIN_NAME_WIDTH, CHARACTER * max(map(len, names)))
    strips = [_strip(dataset, label, seed) for label in range(len(names))]
    high, wide = strips[0].shape
    tops = range(HEADING, HEADING + len(names) * (high + ROW_GAP), high + ROW_GAP)
    canvas = np.full((tops[-1] + high + MARGIN, left + wide + MARGIN), WHITE, np.uint8)
    for top, strip in zip(tops, strips, strict=True):
        canvas[top : top + high, left : left + wide] = strip
    total = sum(len(split.labels) for split in dataset.splits().values())
    texts = [
        Text(22, dataset.name, 13, INK),
        Text(
            44,
            f"{total:,} images in {len(names)} classes; samples of the train split and its size",
            8,
            PALE,
        ),
    ]
    counts = dataset.train.counts(dataset.class_names).values()
    for top, name, count in zip(tops, names, counts, strict=True):
        texts += [
            Text(top + high // 2 - 7, name, 9.5, INK),
            Text(top + high // 2 + 9, f"{count:,}", 8, PALE),
        ]
    return _drawn(canvas, texts)


def _drawn(canvas: UInt8Array, texts: Sequence[Text]) -> bytes:
    """A PNG of the canvas, pixel by pixel, with texts at its left margin."""
    from matplotlib.figure import Figure

    height, width = canvas.shape
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    figure.figimage(canvas, cmap="gray", vmin=0, vmax=WHITE, origin="upper")
    family = list(families())
    for text in texts:
        x, y = MARGIN / width, 1 - text.middle / height
        figure.text(
            x,
            y,
            text.words,
            size=text.points,
            color=text.color,
            family=family,
            va="center",
            parse_math=False,
        )
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # a box is drawn; the samples still tell
        figure.savefig(file, format="png", dpi=DPI)
    return file.getvalue()


def _strip(dataset: Dataset, label: int, seed: int) -> UInt8Array:
    """Samples of one class side by side: uint8, 0 = black, white between them and where there are too few."""
    rows = np.flatnonzero(dataset.train.labels == label)
    chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:COLUMNS])
    images = dataset.train.images[chosen] * (WHITE / dataset.full_ink)
    scale = max(1, SAMPLE_SIDE // images.shape[1])
    samples = images.repeat(scale, axis=1).repeat(scale, axis=2)
    samples = np.pad(
        samples, ((0, COLUMNS - len(samples)), (0, 0), (0, GAP)), constant_values=WHITE
    )
    return np.hstack(list(samples)).astype(np.uint8)
