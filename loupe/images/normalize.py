"""Make a picture look like the training data of a model."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from loupe.images.spec import SIDE, ImageSpec, UInt8Array

# Side of the box that holds an MNIST digit, of the image's. Source: LeCun et al., "The MNIST
# database".
INK_SHARE = 20 / SIDE
FINE = 4  # times the box is enough to judge strokes, and quick on photos
STROKE_SHARE = 2.0 / 20  # of the box; MNIST's own strokes are two to three pixels wide
INK_FLOOR = 0.15  # fraction of the strongest ink; below it is paper: shadows, JPEG noise


def normalize_pixels(pixels: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Make a picture look like training data.

    For `ink` and `object`, a picture of the model's size on a dark ground stays as it is. All
    140,000 images of MNIST and Fashion-MNIST are like that, and only pictures prepared for these
    models are.

    Args:
        pixels: uint8, 0 = black, 255 = white, of shape `(height, width)`, or `(height, width, 3)`
            if the spec has three channels.
        spec: Images of the model. The look `ink` does what MNIST's authors did: light ink on dark,
            crop, fit into 20 × 20 of 28 × 28, centre of mass to the middle. `object` inverts a
            light ground and pads. `photo` only changes the size, as the spec's `fit` says.

    Returns:
        uint8, shape `spec.shape`; for `ink` and `object`, 0 = background, 255 = full ink.
    """
    if spec.look == "photo":
        return _fit_photo(pixels, spec)
    light_ground = has_light_ground(pixels)
    if pixels.shape == spec.shape and not light_ground:
        return pixels
    on_dark = 255 - pixels if light_ground else pixels
    return _centre_ink(on_dark, spec) if spec.look == "ink" else _pad(on_dark, spec)


def has_light_ground(grey: UInt8Array) -> bool:
    """Return whether a picture, uint8 `(height, width)`, has a light border, like paper."""
    return border_mean(grey) > 127


def border_mean(grey: UInt8Array) -> float:
    """Return the mean brightness, 0..255, of the outermost rows and columns."""
    edges = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    # On 28 × 28 pixels, this is four times as fast as NumPy.
    pixels = b"".join([edge.tobytes() for edge in edges])
    return sum(pixels) / len(pixels)


def _centre_ink(on_dark: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Crop to the ink, fit it into 20 × 20 of 28 × 28 pixels, and centre its mass."""
    # Computed for each of the 256 values, so that large pictures need no copy in float.
    levels = np.clip(np.arange(256) - np.median(on_dark), 0, None)
    strongest = levels[on_dark.max()]
    if strongest == 0:  # an empty sheet
        return np.zeros(spec.shape, np.uint8)
    side = round(INK_SHARE * min(spec.height, spec.width))
    levels = np.minimum(levels, strongest)
    levels[levels < INK_FLOOR * strongest] = 0
    is_ink = on_dark >= np.flatnonzero(levels)[0]
    rows, columns = np.flatnonzero(is_ink.any(axis=1)), np.flatnonzero(is_ink.any(axis=0))
    box = on_dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    contrasts = bytes(_full_contrast(levels))
    strokes = np.frombuffer(box.tobytes().translate(contrasts), np.uint8).reshape(box.shape)
    if max(box.shape) > FINE * side:
        strokes = _full_contrast(_resize(strokes, FINE * side))
    strokes = _thicken(_full_contrast(strokes))  # again: rounding down may have left 254
    return _place_by_mass(_full_contrast(_resize(strokes, side)), spec)


def _full_contrast(ink: NDArray[np.floating] | UInt8Array) -> UInt8Array:
    """Scale brightness so that the strongest ink becomes 255."""
    return np.asarray(ink * (255 / ink.max()), dtype=np.uint8)


def _thicken(strokes: UInt8Array) -> UInt8Array:
    """Widen thin strokes to a pen's width; they would fade when the picture shrinks."""
    inked = np.pad(strokes, 1) > 127  # the ground around the box counts
    inside = np.asarray(Image.fromarray(inked).convert("L").filter(ImageFilter.MinFilter(3))) > 127
    outline = inked.sum() - (inked & inside).sum()  # pixels of ink that touch the ground
    width = 2 * inked.sum() / max(1, outline)
    missing = STROKE_SHARE * max(strokes.shape) - width
    radius = round(missing / 2)
    if radius < 1:
        return strokes
    roomy = Image.fromarray(np.pad(strokes, radius))  # strokes at the edge grow outwards too
    return np.asarray(roomy.filter(ImageFilter.MaxFilter(2 * radius + 1)))


def _place_by_mass(small: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Place a small picture in the image, uncut, with the centre of mass in the middle."""
    weights = small.astype(np.float64)
    total = weights.sum()
    height, width = small.shape
    row = (weights.sum(axis=1) @ np.arange(height)) / total if total else (height - 1) / 2
    column = (weights.sum(axis=0) @ np.arange(width)) / total if total else (width - 1) / 2
    top = int(np.clip(round((spec.height - 1) / 2 - row), 0, spec.height - height))
    left = int(np.clip(round((spec.width - 1) / 2 - column), 0, spec.width - width))
    return _place(small, top, left, spec)


def _fit_photo(pixels: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Give a photo the model's size, as `spec.fit` says."""
    height, width = pixels.shape[:2]
    if spec.fit == "pad":
        return _pad(pixels, spec)
    if spec.fit == "crop":
        scale = max(spec.height / height, spec.width / width)
        kept_height, kept_width = spec.height / scale, spec.width / scale
    else:
        kept_height, kept_width = height, width
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return _scaled(
        pixels, (spec.height, spec.width), (left, top, left + kept_width, top + kept_height)
    )


def _pad(pixels: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Fit a picture into the image, in proportion, and centre it on black."""
    height, width = pixels.shape[:2]
    small = _resize(
        pixels, round(max(height, width) * min(spec.height / height, spec.width / width))
    )
    height, width = small.shape[:2]
    return _place(small, (spec.height - height) // 2, (spec.width - width) // 2, spec)


def _place(small: UInt8Array, top: int, left: int, spec: ImageSpec) -> UInt8Array:
    height, width = small.shape[:2]
    placed = np.zeros(spec.shape, np.uint8)
    placed[top : top + height, left : left + width] = small
    return placed


def _resize(picture: UInt8Array, side: int) -> UInt8Array:
    """Scale the longer side to `side` pixels, and the other one in proportion, to at least 1."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return _scaled(picture, size, (0, 0, width, height))


def _scaled(
    picture: UInt8Array, size: tuple[int, int], box: tuple[float, float, float, float]
) -> UInt8Array:
    """Scale a part of a picture, `(left, top, right, bottom)`, to `(height, width)`."""
    height, width = size
    shrinks = height < box[3] - box[1] or width < box[2] - box[0]
    resampling = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(picture).resize((width, height), resampling, box))
