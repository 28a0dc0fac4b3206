"""A sheet of pictures, what the model saw of them, and bars, for `loupe predict --grid`."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from loupe.client.predictions import Prediction, PredictionError
from loupe.drawing import INK, LARGE, MEDIUM, ORANGE, Bar, Text, Tile, TileSheet, legible
from loupe.errors import LoupeError
from loupe.images.decode import open_picture, read_file
from loupe.images.spec import UInt8Array

MAX_TILES = 100  # more would be too small to see
COLUMNS = 4  # of a grid with at most 16 tiles
SIDE, GAP = 160, 28  # pixels
BARS = 3  # classes of a picture
PREVIEW_SIDE = 300  # pixels of the longer side that are decoded of a large picture
MAX_PIXELS = 50_000_000  # of a picture that is decoded to be shown; large phones make as many


def draw(outcomes: Iterable[tuple[Path, Prediction | PredictionError]]) -> bytes:
    """Return a PNG of at most `MAX_TILES` files and their outcomes, in reading order."""
    tiles = [_tile(file, outcome) for file, outcome in outcomes]
    columns = min(len(tiles), max(COLUMNS, math.ceil(math.sqrt(len(tiles)))))
    return TileSheet(tiles, columns, SIDE, GAP).png()


def _tile(file: Path, outcome: Prediction | PredictionError) -> Tile:
    shown, name = preview(file, PREVIEW_SIDE), (Text(file.name, MEDIUM),)
    if isinstance(outcome, PredictionError):
        return Tile(shown, (Text(outcome.code.replace("_", " "), LARGE, ORANGE),), name)
    label = Text(outcome.reason or "unsure", LARGE, ORANGE)
    if outcome.label is not None:
        label = Text(legible(outcome.label, outcome.index or 0), LARGE, INK)
    best = () if outcome.reason else outcome.best(BARS)
    bars = [Bar(each, probability) for each, probability in best]
    seen = None if outcome.view is None else outcome.view.seen
    return Tile(shown, (label,), name, seen, bars)


def preview(picture: Path | bytes, side: int) -> UInt8Array | None:
    """Return a picture as RGB, at most `side` pixels long, or `None` if it cannot be read."""
    try:
        data = picture if isinstance(picture, bytes) else read_file(picture)
        return np.asarray(open_picture(data, max_pixels=MAX_PIXELS).preview(side))
    except (LoupeError, OSError):
        return None
