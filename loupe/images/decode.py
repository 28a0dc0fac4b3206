"""Read pictures safely.

`open_picture` reads only the header and refuses what is unsafe to decode; `Picture.pixels` does the
work.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from loupe.images.normalize import normalize
from loupe.images.spec import SIDE, Look, UInt8Array
from loupe.old_errors.core import (
    AnimatedImage,
    ImageTooLarge,
    ImageTooSmall,
    InvalidImage,
    InvalidPixels,
)

MIN_SIDE = 2  # pixels; less than that shows nothing
DRAFT_SIZE = (
    4 * SIDE,
    4 * SIDE,
)  # libjpeg decodes down to not much more than this: ten times faster on photos
PART_BYTES = 256 * 1024  # of a JPEG file; decoding them takes about two milliseconds
MAX_FILE_BYTES = 256 * 2**20  # more than the pixels of the largest picture take unpacked
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
JPEG = frozenset({"JPEG", "MPO"})  # a phone's JPEG with a preview or depth map behind it is an MPO
MANY_FRAMES = frozenset(
    {"PNG", "WEBP", "GIF", "TIFF"}
)  # not MPO: only the first picture of it is the photo
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
        image.decodermaxblock = len(
            data
        )  # in one go; after every 64 KiB the decoder would wait for Python's lock
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
        while len(data) < status.st_size and (
            more := os.read(descriptor, status.st_size - len(data))
        ):
            data += more
        return data, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _to_grey(image: Image.Image) -> UInt8Array:
    """Decode to uint8 `(height, width)`: upright, transparency over white, 0 = black."""
    if image.format in JPEG:
        image.draft("L", DRAFT_SIZE)
    if (
        image.mode == "L"
        and "transparency" not in image.info
        and image.format == "PNG"
        and "exif" not in image.info
    ):
        pixels = np.frombuffer(
            image.tobytes(), np.uint8
        )  # takes half the time of np.asarray(image)
        return pixels.reshape(image.height, image.width)
    shown = _on_white(image)
    return np.asarray(shown if shown.mode == "L" else shown.convert("L"))  # which would copy it


def _on_white(image: Image.Image) -> Image.Image:
    """Decode: upright, of eight bits, transparency over white."""
    image.load()
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(
            image
        )  # before the conversions below, which forget what the camera said
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys stretched to 0..255; Pillow's own conversion would clip them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32)).astype(
        np.float64
    )  # no NaN, no infinity
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.astype(np.uint8))


def _describe(data: bytes) -> str:
    """What bytes that are no image seem to be."""
    head = data[:200]
    if head.lstrip().startswith((b"http://", b"https://")):
        return "the text of a URL; Loupe fetches nothing, send the image's bytes"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(data):,} bytes of no image format Loupe knows"
    return (
        f"text starting {text[:40]!r}"
        if text.isprintable() or "\n" in text
        else f"{len(data):,} unreadable bytes"
    )
