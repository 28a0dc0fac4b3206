"""A picture with samples of a data set, one row per class."""

from pathlib import Path

import numpy as np

from loupe.drawing import INK, LARGE, MEDIUM, Text, Tile, TileSheet
from loupe.errors import NotWritable
from loupe.files import write_atomically
from train.data.splits import Dataset

COLUMNS = 16  # samples per class
SAMPLE_SIDE = 56  # pixels
GAP = 4  # pixels between samples


def save_contact_sheet(dataset: Dataset, path: Path, seed: int = 0) -> None:
    """Write a PNG file with random samples of the train split, or raise `NotWritable`."""
    save(path, contact_sheet(dataset, seed).png())


def save(path: Path, content: bytes) -> None:
    """Write a file, or raise `NotWritable`."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise NotWritable(f"Cannot write '{path}': {error.strerror}.") from error


def contact_sheet(dataset: Dataset, seed: int = 0) -> TileSheet:
    """Return the sheet; the same seed gives the same samples."""
    tiles: list[Tile | None] = []
    for label in range(len(dataset.class_names)):
        rows = np.flatnonzero(dataset.train.labels == label)
        chosen = np.sort(np.random.default_rng(seed).permutation(rows)[:COLUMNS])
        images = (dataset.train.images[chosen] * (255 / dataset.full_ink)).astype(np.uint8)
        tiles += [Tile(image) for image in images]
        tiles += [None] * (COLUMNS - len(images))
    total = sum(len(split.labels) for split in dataset.splits().values())
    counts = dataset.train.counts(dataset.class_names)
    return TileSheet(
        tiles,
        COLUMNS,
        side=SAMPLE_SIDE,
        gap=GAP,
        title=(
            Text(dataset.name, LARGE, INK),
            Text(f"{total:,} images in {len(counts)} classes; samples of the train split"),
        ),
        row_titles=[
            (Text(name, MEDIUM, INK), Text(f"{count:,}")) for name, count in counts.items()
        ],
    )
