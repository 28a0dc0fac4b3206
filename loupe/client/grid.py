"""A picture of pictures: each with what a model sees in it and how surely above it, as the books for beginners show them."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.cells import cell_len

from loupe.client.predictions import Prediction, PredictionError
from loupe.drawing import families, unwritable
from loupe.errors import LoupeError
from loupe.images.decode import open_picture, read_file
from loupe.images.spec import UInt8Array
from loupe.old_errors.core import DrawingUnavailable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_TILES = 100  # more would be too small to see
ACROSS = 6  # tiles in a row, where there are enough of them and not too many
DPI = 144
SIDE, GAP, HEAD, FOOT, MARGIN = (
    1.5,
    0.2,
    0.46,
    0.34,
    0.2,
)  # inches: of a tile, between two, above, below, around all
SHOWN_SIDE = 300  # pixels of the longer side that a tile keeps of a large picture
MOST_PIXELS = 50_000_000  # of a picture that is decoded to be shown; large phones make as many
LETTERS = 16  # that fit above a tile; of scripts with wide ones, half as many
INK, MUTED, LINE, GROUND, UNSURE = "#1f2933", "#6b7785", "#d9dfe6", "#f1f4f8", "#d9730d"


@dataclass(frozen=True)
class Tile:
    """A picture and what is said of it.

    Attributes:
        file: Where the picture is; its name stands below it.
        label: What the model sees in it; none if it is not sure enough, or could not look.
        index: The label's place among the classes, for labels that no font can write.
        confidence: 0..1; none if the picture could not be read.
    """

    file: Path
    label: str | None
    index: int | None
    confidence: float | None

    @classmethod
    def of(cls, file: Path, outcome: Prediction | PredictionError) -> "Tile":
        """The tile of a file and what was answered."""
        if isinstance(outcome, PredictionError):
            return cls(file, None, None, None)
        return cls(file, outcome.label, outcome.index, outcome.confidence)


def check_drawable() -> None:
    """Make sure that a grid can be drawn, before anything is asked.

    Raises:
        DrawingUnavailable: If Matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise DrawingUnavailable


def draw(tiles: Sequence[Tile]) -> bytes:
    """The tiles in rows, in reading order, as the bytes of a PNG file.

    Args:
        tiles: 1 to `MOST_TILES`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    across = columns(len(tiles))
    width = 2 * MARGIN + across * (SIDE + GAP) - GAP
    height = 2 * MARGIN + math.ceil(len(tiles) / across) * (HEAD + SIDE + FOOT)
    with mpl.rc_context({"font.family": list(families()), "text.parse_math": False}):
        figure = Figure((width, height), facecolor="white")
        for number, tile in enumerate(tiles):
            left = MARGIN + number % across * (SIDE + GAP)
            top = MARGIN + number // across * (HEAD + SIDE + FOOT) + HEAD
            place = (left / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height)
            _draw_tile(figure.add_axes(place), tile)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
        return file.getvalue()


def columns(tiles: int) -> int:
    """How many stand in a row: all, or `ACROSS`, or as many as there are rows."""
    return min(tiles, max(ACROSS, math.ceil(math.sqrt(tiles))))


def _draw_tile(axes: "Axes", tile: Tile) -> None:
    picture = _shown(tile.file)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_color(LINE)
    axes.set_facecolor(GROUND)
    if picture is not None:
        height, width = picture.shape[:2]
        side, middle_x, middle_y = max(height, width) / 2, width / 2 - 0.5, height / 2 - 0.5
        axes.imshow(
            picture, aspect="auto", interpolation="nearest" if 2 * side < SHOWN_SIDE else "hanning"
        )
        axes.set(xlim=(middle_x - side, middle_x + side), ylim=(middle_y + side, middle_y - side))
    label, confidence, colour = _title(tile)
    _write(axes, label, 1, 17, 9.5, colour)
    _write(axes, confidence, 1, 5, 7.5, MUTED)
    _write(axes, _short(_legible(tile.file.name, "")), 0, -11, 6.5, MUTED)


def _write(axes: "Axes", text: str, edge: int, points: int, size: float, colour: str) -> None:
    """Words in the middle, so many points above the upper edge, 1, or the lower one, 0."""
    axes.annotate(
        text,
        xy=(0.5, edge),
        xycoords="axes fraction",
        xytext=(0, points),
        textcoords="offset points",
        horizontalalignment="center",
        fontsize=size,
        color=colour,
    )


def _title(tile: Tile) -> tuple[str, str, str]:
    """The label, how sure it is, and the label's colour."""
    if tile.confidence is None:
        return "", "cannot be read", MUTED
    if tile.label is None:
        return "unsure", _percent(tile.confidence), UNSURE
    return _short(_legible(tile.label, f"#{tile.index}")), _percent(tile.confidence), INK


def _legible(text: str, otherwise: str) -> str:
    return text if text.isprintable() and not unwritable([text]) else otherwise


def _short(text: str) -> str:
    while cell_len(text) > LETTERS:
        text = text.rstrip("…")[:-1] + "…"
    return text


def _percent(confidence: float) -> str:
    return ">99 %" if confidence >= 0.995 else f"{confidence:.0%}".replace("%", " %")


def _shown(file: Path) -> UInt8Array | None:
    """The picture as people see it, uint8 `(height, width, 3)`; nothing where it cannot be read."""
    try:
        return np.asarray(open_picture(read_file(file), max_pixels=MOST_PIXELS).preview(SHOWN_SIDE))
    except (LoupeError, OSError):
        return None
