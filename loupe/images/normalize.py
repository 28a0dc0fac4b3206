"""Make a picture look like the training data of a model."""

from loupe.images.looks.ink import Box, Symbols, draw_each, draw_ink
from loupe.images.looks.objects import cut_to_object
from loupe.images.looks.scaling import placed, resized, scaled
from loupe.images.looks.strokes import is_centred
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.images.steps import note, note_crop, note_size

INVERTED = "inverted, because the ground is light"
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def normalize_pixels(pixels: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Make a picture look like training data, and note the steps.

    For `ink` and `object`, a picture of the model's size on a dark ground stays as it is; a single
    symbol must also be as large and as centred as MNIST's. All 140,000 images of MNIST and
    Fashion-MNIST are like that, and only pictures prepared for these models are.

    Args:
        pixels: uint8, 0 = black, 255 = white, of shape `(height, width)`, or `(height, width, 3)`
            if the spec has three channels.
        spec: Images of the model. The look `ink` finds the strokes and does what MNIST's authors
            did: light ink on dark, crop, fit into 20 × 20 of 28 × 28, centre of mass to the middle.
            `object` inverts a light ground, cuts to the object if the ground is plain, and pads.
            `photo` only changes the size, as the spec's `fit` says.

    Returns:
        uint8, shape `spec.shape`; for `ink` and `object`, 0 = background, 255 = full ink. An
        image of ink is black if the picture is blank.
    """
    if spec.look == "photo":
        return _fit_photo(pixels, spec)
    light_ground = has_light_ground(pixels)
    if pixels.shape == spec.shape:
        ready = _ready(pixels, spec, light_ground)
        if ready is not None:
            return ready
    if spec.look == "ink":
        return draw_ink(pixels, spec)
    if light_ground:
        note("inverted", INVERTED)
        pixels = 255 - pixels
    return _pad(cut_to_object(pixels), spec)


def split_pixels(pixels: UInt8Array, spec: ImageSpec) -> Symbols:
    """Make an image of each symbol in a picture, as `normalize_pixels` does of a single one.

    Args:
        pixels: uint8, 0 = black, 255 = white, of shape `(height, width)`.
        spec: Images of the model, which are `single`.

    Returns:
        Images and boxes, line by line and left to right; none if the picture is blank.

    Raises:
        InvalidImage: If there are too many symbols.
    """
    if pixels.shape == spec.shape:
        ready = _ready(pixels, spec, has_light_ground(pixels))
        if ready is not None:
            return [(ready, WHOLE)] if ready.any() else []
    return draw_each(pixels, spec)


def _ready(pixels: UInt8Array, spec: ImageSpec, light_ground: bool) -> UInt8Array | None:
    """Return a picture of the model's size, or its negative, if it looks like training data."""
    on_dark = 255 - pixels if light_ground else pixels
    if not (is_centred(on_dark) if spec.single else not light_ground):
        return None
    if light_ground:
        note("inverted", INVERTED)
    return on_dark


def has_light_ground(grey: UInt8Array) -> bool:
    """Return whether a picture, uint8 `(height, width)`, has a light border, like paper."""
    return border_mean(grey) > 127


def border_mean(grey: UInt8Array) -> float:
    """Return the mean brightness, 0..255, of the outermost rows and columns."""
    edges = (grey[0], grey[-1], grey[:, 0], grey[:, -1])
    # On 28 × 28 pixels, this is four times as fast as NumPy.
    pixels = b"".join([edge.tobytes() for edge in edges])
    return sum(pixels) / len(pixels)


def _fit_photo(pixels: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Give a photo the model's size, as `spec.fit` says."""
    height, width = pixels.shape[:2]
    if spec.fit == "pad":
        return _pad(pixels, spec)
    if spec.fit == "crop":
        kept_height = min(height, width * spec.height / spec.width)
        kept_width = min(width, height * spec.width / spec.height)
        if (kept_height, kept_width) != (height, width):
            note_crop(kept_width / width, kept_height / height, "the middle")
    else:
        kept_height, kept_width = height, width
    note_size(pixels, spec.height, spec.width)
    left, top = (width - kept_width) / 2, (height - kept_height) / 2
    return scaled(
        pixels, (spec.height, spec.width), (left, top, left + kept_width, top + kept_height)
    )


def _pad(pixels: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Fit a picture into the image, in proportion, and centre it on black."""
    height, width = pixels.shape[:2]
    small = resized(
        pixels, round(max(height, width) * min(spec.height / height, spec.width / width))
    )
    height, width = small.shape[:2]
    note_size(pixels, height, width)
    if (height, width) != (spec.height, spec.width):
        note("padded", "padded to {} pixels", spec)
    return placed(small, (spec.height - height) // 2, (spec.width - width) // 2, spec)
