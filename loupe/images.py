"""From the bytes of any picture to the `uint8 (28, 28)` a model was trained on.

`open_picture` reads only the header and refuses what is unsafe to decode; `Picture.pixels` does the work. How a picture is made to
look like the training data depends on the model's `look`.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageFilter, ImageOps, UnidentifiedImageError

from loupe.errors import AnimatedImage, ImageTooLarge, ImageTooSmall, InvalidImage, InvalidPixels

UInt8Array: TypeAlias = NDArray[np.uint8]
Float32Array: TypeAlias = NDArray[np.float32]

Look = Literal["ink", "object"]
"""`ink`: strokes, centred by mass as in MNIST. `object`: a thing on a plain ground, as in Fashion-MNIST."""

SIDE = 28  # pixels; the size of MNIST and Fashion-MNIST
INK_SIDE = 20  # pixels; MNIST's digits are fitted into a 20 × 20 box. Source: LeCun et al., "The MNIST database"
MIN_SIDE = 2  # pixels; less than that shows nothing
FINE_SIDE = 80  # pixels; four times as fine as the result is enough to judge strokes, and quick on photos
STROKE_WIDTH = 2.0  # pixels in the 20 × 20 box; MNIST's own strokes are two to three wide
INK_FLOOR = 0.15  # fraction of the strongest ink below which a pixel is paper: shadows, JPEG noise
DRAFT_SIZE = (4 * SIDE, 4 * SIDE)  # libjpeg decodes down to not much more than this: ten times faster on photos
PART_BYTES = 256 * 1024  # of a JPEG file; decoding them takes about two milliseconds
MAX_FILE_BYTES = 256 * 2**20  # more than the pixels of the largest picture take unpacked
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
JPEG = frozenset({"JPEG", "MPO"})  # a phone's JPEG with a preview or depth map behind it is an MPO
MANY_FRAMES = frozenset({"PNG", "WEBP", "GIF", "TIFF"})  # not MPO: only the first picture of it is the photo
EXIF_ORIENTATION = 0x0112
# Decoders report damage in many ways; what all of these say is that the bytes are no whole image.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError)

# Pillow's own limit is a process-wide warning; `open_picture` checks the header against the caller's limit instead.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns of, damaged metadata above all, is the sender's affair and would fill the logs.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class Picture:
    """A picture whose header has been checked and whose pixels have not been decoded."""

    image: ImageFile.ImageFile
    data: bytes = field(repr=False)

    @property
    def pixel_count(self) -> int:
        """Width × height, as the header says; what decoding costs grows with it."""
        return self.image.width * self.image.height

    def pause_with(self, pause: Callable[[], object]) -> None:
        """Have decoding pause after every `PART_BYTES` of a JPEG file, which is decoded in one go else.

        Args:
            pause: Called in the thread that decodes.
        """
        if self.image.format in JPEG:
            self.image.fp = _InParts(self.data, pause)
            self.image.decodermaxblock = PART_BYTES

    def pixels(self, look: Look) -> UInt8Array:
        """Decode, and make the picture look like the training data.

        Args:
            look: How the model's training images look.

        Returns:
            uint8, shape `(28, 28)`, 0 = background, 255 = full ink.

        Raises:
            InvalidImage: If the file ends early or is damaged.
        """
        return normalize(self._grey(), look)

    def unchanged(self) -> UInt8Array:
        """Decode a picture that looks like the training data already: uint8, shape `(28, 28)`, bright is ink.

        Raises:
            InvalidImage: If the file ends early or is damaged.
            InvalidPixels: If it has another size.
        """
        if self.image.size != (SIDE, SIDE):
            raise InvalidPixels(
                f"a picture of {SIDE} × {SIDE} pixels, since it is to be taken as it is",
                f"{self.image.width} × {self.image.height}",
            )
        return self._grey()

    def preview(self, side: int) -> Image.Image:
        """Decode for people to look at: upright, in its colours, on white, neither side longer than `side` pixels.

        Raises:
            InvalidImage: If the file ends early or is damaged.
        """
        try:
            self.image.draft("RGB", (2 * side, 2 * side))
            shown = _on_white(self.image).convert("RGB")
        except DECODING_ERRORS as error:
            raise self._damaged(error) from error
        shown.thumbnail((side, side))
        return shown

    def _grey(self) -> UInt8Array:
        try:
            return _to_grey(self.image)
        except DECODING_ERRORS as error:
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> InvalidImage:
        return InvalidImage(f"a damaged {self.image.format} file ({error})")


class _InParts(io.BytesIO):
    """A file that pauses whenever some of it has been worked off."""

    def __init__(self, data: bytes, pause: Callable[[], object]) -> None:
        super().__init__(data)
        self._pause = pause

    def read(self, size: int | None = -1, /) -> bytes:
        self._pause()
        return super().read(size)


def open_picture(data: bytes, *, max_pixels: int) -> Picture:
    """Check a picture's header without decoding its pixels.

    Args:
        data: A file of one of `FORMATS`.
        max_pixels: Most pixels to accept, width × height.

    Raises:
        InvalidImage: If `data` is empty, of no known format, or a size or number of frames that Loupe refuses.
    """
    if not data:
        raise InvalidImage("no bytes at all")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.decodermaxblock = len(data)  # in one go; after every 64 KiB the decoder would wait for Python's lock
        animated = image.format in MANY_FRAMES and bool(getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        raise InvalidImage(_describe(data)) from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise InvalidImage(f"a damaged file ({error})") from error
    if image.mode == "LAB":  # Pillow decodes it, and converts it to nothing
        raise InvalidImage(f"a {image.format} file in LAB colours; save it in RGB")
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(image.width, image.height, max_pixels)
    if min(image.size) < MIN_SIDE:
        raise ImageTooSmall(image.width, image.height, MIN_SIDE)
    if animated:
        raise AnimatedImage(str(image.format))
    return Picture(image, data)


def read_file(path: str | Path) -> bytes:
    """A picture file's bytes; a pipe is never waited for, and memory is kept from what cannot be a picture.

    Raises:
        InvalidImage: If it is no file, or too long a one.
        OSError: If it cannot be read.
    """
    return read_with_status(path)[0]


def read_with_status(path: str | Path) -> tuple[bytes, os.stat_result]:
    """The same, and what the file system says of the file after it was read.

    In a third of the time of `open(path, "rb").read()` with `os.stat` before and behind it, which is much among small pictures.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidImage("something that is no file")
        if status.st_size > MAX_FILE_BYTES:
            raise InvalidImage(f"a file of {status.st_size:,} bytes")
        data = os.read(descriptor, status.st_size)
        while len(data) < status.st_size and (more := os.read(descriptor, status.st_size - len(data))):
            data += more
        return data, os.fstat(descriptor)
    finally:
        os.close(descriptor)


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
    return sum(sum(edge.tobytes()) for edge in edges) / sum(map(len, edges))  # on 28 × 28 three times as fast as NumPy


def check_batch(images: NDArray[np.generic]) -> UInt8Array:
    """The array itself, once it is known to be a batch of images.

    Raises:
        InvalidPixels: If it is not uint8 of shape `(n, 28, 28)`.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or images.ndim != 3:
        raise InvalidPixels(
            f"uint8 images of shape (n, {SIDE}, {SIDE}), 0 = background, 255 = full ink",
            f"{images.dtype}, shape {images.shape}",
        )
    return images.astype(np.uint8, copy=False)


def _to_grey(image: Image.Image) -> UInt8Array:
    """Decode to uint8 `(height, width)`: upright, transparency over white, 0 = black."""
    if image.format in JPEG:
        image.draft("L", DRAFT_SIZE)
    if image.mode == "L" and "transparency" not in image.info and image.format == "PNG" and "exif" not in image.info:
        pixels = np.frombuffer(image.tobytes(), np.uint8)  # takes half the time of np.asarray(image)
        return pixels.reshape(image.height, image.width)
    shown = _on_white(image)
    return np.asarray(shown if shown.mode == "L" else shown.convert("L"))  # which would copy it


def _on_white(image: Image.Image) -> Image.Image:
    """Decode: upright, of eight bits, transparency over white."""
    image.load()
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)  # before the conversions below, which forget what the camera said
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys stretched to 0..255; Pillow's own conversion would clip them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32)).astype(np.float64)  # no NaN, no infinity
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.astype(np.uint8))


def _centre_ink(on_dark: UInt8Array) -> UInt8Array:
    """Crop to the ink, fit it into 20 × 20, put its centre of mass into the middle of 28 × 28."""
    ink = np.clip(on_dark.astype(np.float32) - np.median(on_dark), 0, None)  # the ground's own brightness is no ink
    strongest = ink.max()
    if strongest == 0:
        return np.zeros((SIDE, SIDE), np.uint8)  # an empty sheet
    ink[ink < INK_FLOOR * strongest] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    strokes = _resized(_full_contrast(box), FINE_SIDE) if max(box.shape) > FINE_SIDE else _full_contrast(box)
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
    roomy = Image.fromarray(np.pad(strokes, radius))  # strokes at the edge of the box grow outwards too
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


def _describe(data: bytes) -> str:
    """What bytes that are no image seem to be."""
    head = data[:200]
    if head.lstrip().startswith((b"http://", b"https://")):
        return "the text of a URL; Loupe fetches nothing, send the image's bytes"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(data):,} bytes of no image format Loupe knows"
    return f"text starting {text[:40]!r}" if text.isprintable() or "\n" in text else f"{len(data):,} unreadable bytes"
