"""Make a grey picture look like the training data of a model."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from loupe.images.spec import SIDE, Look, UInt8Array

INK_SIDE = 20  # pixels; MNIST's digits are fitted into a 20 × 20 box. Source: LeCun et al., "The MNIST database"
FINE_SIDE = (
    80  # pixels; four times as fine as the result is enough to judge strokes, and quick on photos
)
STROKE_WIDTH = 2.0  # pixels in the 20 × 20 box; MNIST's own strokes are two to three wide
INK_FLOOR = 0.15  # fraction of the strongest ink below which a pixel is paper: shadows, JPEG noise


def normalize(grey: UInt8Array, look: Look) -> UInt8Array:
    """Make a grey picture look like training data.

    A 28 × 28 picture on a dark ground is left as it is: all 140,000 images of MNIST and Fashion-MNIST are such, and no other
    picture that has not been prepared for these models.

    Args:
        grey: uint8, shape `(height, width)`, 0 = black, 255 = white.
        look: `ink` does what MNIST's authors did: light ink on dark, crop, fit into 20 × 20, centre of mass to the middle.
            `object` turns a light ground dark and pads to a square.

    Returns:
        uint8, shape `(28, 28)`, 0 = background, 255 = full ink.
    """
    light_ground = has_light_ground(grey)
    if grey.shape == (SIDE, SIDE) and not light_ground:
        return grey
    on_dark = 255 - grey if light_ground else grey
    return _centre_ink(on_dark) if look == "ink" else _fit_object(on_dark)


def has_light_ground(grey: UInt8Array) -> bool:
    """Whether a picture, uint8 `(height, width)`, shows something dark on something light, as paper is."""
    return border_mean(grey) > 127


def border_mean(grey: UInt8Array) -> float:
    """Mean brightness, 0..255, of the outermost row and column on each side."""
    edges = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    return sum(sum(edge.tobytes()) for edge in edges) / sum(
        map(len, edges)
    )  # on 28 × 28 three times as fast as NumPy


def _centre_ink(on_dark: UInt8Array) -> UInt8Array:
    """Crop to the ink, fit it into 20 × 20, put its centre of mass into the middle of 28 × 28."""
    ink = np.clip(
        on_dark.astype(np.float32) - np.median(on_dark), 0, None
    )  # the ground's own brightness is no ink
    strongest = ink.max()
    if strongest == 0:
        return np.zeros((SIDE, SIDE), np.uint8)  # an empty sheet
    ink[ink < INK_FLOOR * strongest] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strokes = (
        _resized(_full_contrast(box), FINE_SIDE)
        if max(box.shape) > FINE_SIDE
        else _full_contrast(box)
    )
    return _place_by_mass(_full_contrast(_resized(_thickened(_full_contrast(strokes)), INK_SIDE)))


def _full_contrast(ink: NDArray[np.floating] | UInt8Array) -> UInt8Array:
    """The strongest ink becomes 255."""
    return np.asarray(ink * (255 / ink.max()), dtype=np.uint8)


def _thickened(strokes: UInt8Array) -> UInt8Array:
    """Strokes as wide as a pen's: a thin line would fade when the picture shrinks to 20 × 20."""
    inked = np.pad(strokes, 1) > 127  # the ground around the box counts
    inside = np.asarray(Image.fromarray(inked).convert("L").filter(ImageFilter.MinFilter(3))) > 127
    outline = inked.sum() - (inked & inside).sum()  # pixels of ink that touch the ground
    width = 2 * inked.sum() / max(1, outline)
    missing = STROKE_WIDTH * max(strokes.shape) / INK_SIDE - width
    radius = round(missing / 2)
    if radius < 1:
        return strokes
    roomy = Image.fromarray(
        np.pad(strokes, radius)
    )  # strokes at the edge of the box grow outwards too
    return np.asarray(roomy.filter(ImageFilter.MaxFilter(2 * radius + 1)))


def _place_by_mass(small: UInt8Array) -> UInt8Array:
    """Put a picture of at most 20 × 20 where its centre of mass is the middle of 28 × 28, without cutting it."""
    weights = small.astype(np.float64)
    total = weights.sum()
    height, width = small.shape
    middle = (SIDE - 1) / 2
    row = (weights.sum(axis=1) @ np.arange(height)) / total if total else (height - 1) / 2
    column = (weights.sum(axis=0) @ np.arange(width)) / total if total else (width - 1) / 2
    top = int(np.clip(round(middle - row), 0, SIDE - height))
    left = int(np.clip(round(middle - column), 0, SIDE - width))
    placed = np.zeros((SIDE, SIDE), np.uint8)
    placed[top : top + height, left : left + width] = small
    return placed


def _fit_object(on_dark: UInt8Array) -> UInt8Array:
    """Scale the longer side to 28 and centre on a black square."""
    small = _resized(on_dark, SIDE)
    height, width = small.shape
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    placed = np.zeros((SIDE, SIDE), np.uint8)
    placed[top : top + height, left : left + width] = small
    return placed


def _resized(picture: UInt8Array, side: int) -> UInt8Array:
    """The longer side becomes `side`, the other follows, and is at least 1."""
    scale = side / max(picture.shape)
    height, width = (max(1, round(length * scale)) for length in picture.shape)
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize((width, height), resampling))
