"""Greys of more than eight bits, or signed: which values are black and white, and their bytes."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# TIFF tags. Source: TIFF 6.0, sections 4, 18 and 19; GDAL, "GTiff", TIFFTAG_GDAL_NODATA.
BITS_PER_SAMPLE, PHOTOMETRIC, EXTRA_SAMPLES, SAMPLE_FORMAT, GDAL_NODATA = 258, 262, 338, 339, 42113
WHITE_IS_ZERO, UNSIGNED, SIGNED, FLOAT, PREMULTIPLIED = 0, (1,), (2,), (3,), (1,)
# Numbers and floats name no white. If the highest value is above half of one of these, it is white.
USUAL_WHITES: Final = (1.0, 255.0, 65535.0, 2.0**32 - 1)
# Usual marks of missing values, where no other value is negative.
MISSING_VALUES: Final = frozenset({-9999.0, -32767.0, -32768.0, -99999.0})
FAR = 20.0  # ranges of all other values; a value that is farther away marks a missing one
HUGE = 1e30  # larger numbers, and infinity, are not brightness

Values = NDArray[np.float64]
Tiles = Callable[[], Iterable[Image.Image]]
ToBytes = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Depth:
    """A conversion of a picture's values to bytes.

    Attributes:
        dtype: How to read Pillow's values, which it stores as signed 32 bits or unsigned 8 or 16.
        black: Value that becomes 0.
        white: Value that becomes 255.
        transparent: Value of pixels that are transparent.
        missing: Value of pixels that have none.
    """

    dtype: str | None
    black: float
    white: float
    transparent: float | None
    missing: float | None

    def values(self, tile: Image.Image) -> Values:
        """Return the values of a part of the picture; NaN where they are missing."""
        stored = np.asarray(tile)
        values = (stored if self.dtype is None else stored.view(self.dtype)).astype(np.float64)
        if self.missing is not None:
            values[values == self.missing] = np.nan
        return values

    def to_bytes(self, tile: Image.Image) -> Image.Image:
        """Return a part of the picture as `L`, or `LA` if some value is transparent."""
        values = self.values(tile)
        span = self.white - self.black
        scaled = (values - self.black) * (255 / span) if span else np.zeros_like(values)
        scaled = np.rint(np.clip(np.nan_to_num(scaled, nan=0), 0, 255))
        grey = Image.fromarray(scaled.astype(np.uint8))
        if self.transparent is not None:
            grey.putalpha(Image.fromarray(values != self.transparent).convert("L"))
        return grey


def to_bytes_of(image: Image.Image, tiles: Tiles) -> ToBytes | None:
    """Return what makes parts of a picture `L`, `LA` or `La`; `None` if its values are bytes.

    Args:
        image: The picture.
        tiles: Returns its parts, every time that it is called.
    """
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    if image.mode == "RGBA" and tags.get(BITS_PER_SAMPLE) == (16, 16):
        return partial(_upper_bytes, mode="La" if tags[EXTRA_SAMPLES] == PREMULTIPLIED else "LA")
    is_signed = tags.get(SAMPLE_FORMAT) == SIGNED
    if not (image.mode.startswith(("I", "F")) or (image.mode == "L" and is_signed)):
        return None
    dtype = None
    if image.mode == "L":
        dtype = "int8"
    elif image.mode == "I" and tags.get(SAMPLE_FORMAT, UNSIGNED) == UNSIGNED:
        dtype = "uint32"
    elif image.mode.startswith("I;16") and tags.get(SAMPLE_FORMAT) == FLOAT:
        dtype = "float16"
    depth = Depth(dtype, 0, 65535, image.info.get("transparency"), _missing_value(tags))
    if image.mode.startswith("I;16") and dtype is None:
        bits = tags.get(BITS_PER_SAMPLE, (16,))[0]
        depth = replace(depth, white=2.0**bits - 1)
    elif image.format != "PPM" or image.mode == "F":
        black, white = _range(lambda: map(depth.values, tiles()))
        depth = replace(depth, black=black, white=white)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        depth = replace(depth, black=depth.white, white=depth.black)
    return depth.to_bytes


def _upper_bytes(tile: Image.Image, mode: str) -> Image.Image:
    """Return 16-bit grey and alpha, of which Pillow stores the bytes as four channels."""
    grey, alpha = ("G", "A") if sys.byteorder == "little" else ("R", "B")
    return Image.merge(mode, (tile.getchannel(grey), tile.getchannel(alpha)))


def _missing_value(tags: Mapping[int, Any]) -> float | None:
    try:
        return float(str(tags[GDAL_NODATA]).strip(" \0"))
    except (KeyError, ValueError):
        return None


def _range(parts: Callable[[], Iterator[Values]]) -> tuple[float, float]:
    """Return the values that become black and white."""
    low, high = _extremes(parts(), -HUGE, HUGE)
    if low > high:
        return 0.0, 0.0
    next_low, next_high = _extremes(parts(), low, high)
    span = next_high - next_low  # of all but the lowest and the highest value
    if span > 0 and _usual_white(low, high) is None:
        if next_low - low > FAR * span or (low in MISSING_VALUES and next_low >= 0):
            low = next_low
        if high - next_high > FAR * span:
            high = next_high
    white = _usual_white(low, high)
    return (low, high) if white is None else (0.0, white)


def _extremes(parts: Iterator[Values], above: float, below: float) -> tuple[float, float]:
    """Return the lowest and the highest value between two others."""
    low, high = math.inf, -math.inf
    for values in parts:
        inside = values[(values > above) & (values < below)]
        if inside.size:
            low, high = min(low, float(inside.min())), max(high, float(inside.max()))
    return low, high


def _usual_white(low: float, high: float) -> float | None:
    return next((white for white in USUAL_WHITES if low >= 0 and white / 2 < high <= white), None)
