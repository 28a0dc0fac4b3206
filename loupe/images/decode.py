"""Read pictures safely.

`open_picture` reads only the header and refuses what is unsafe to decode. `Picture.pixels` decodes.
"""

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from loupe.errors import InvalidImage, InvalidPixels
from loupe.images.normalize import normalize
from loupe.images.spec import SIDE, Look, UInt8Array

MIN_SIDE = 2  # pixels; smaller pictures show nothing
DRAFT_SIZE = (4 * SIDE, 4 * SIDE)  # libjpeg scales down to about this: ten times faster on photos
PART_BYTES = 256 * 1024  # of a JPEG file; decoding them takes about two milliseconds
MAX_FILE_BYTES = 256 * 2**20  # the largest accepted picture takes less, even uncompressed
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
FORMATS_LISTED = "PNG, JPEG, WebP, BMP, GIF or TIFF"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
JPEG = frozenset({"JPEG", "MPO"})  # phones append a preview or depth map, which makes an MPO
MULTI_FRAME = frozenset({"PNG", "WEBP", "GIF", "TIFF"})  # of an MPO, the first picture is the photo
EXIF_ORIENTATION = 0x0112
# Pillow's decoders raise any of these for damaged files.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError)


@cache
def set_up_pillow() -> None:
    """Configure Pillow once per process; `open_picture` does so before it opens anything."""
    # Pillow's own limit holds for the process. `open_picture` checks each header against the
    # caller's limit instead.
    Image.MAX_IMAGE_PIXELS = None
    # Pillow warns of damaged metadata. Senders cause it, and it would fill the logs.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@dataclass(frozen=True)
class Picture:
    """A picture whose header has been checked and whose pixels have not been decoded."""

    image: ImageFile.ImageFile
    data: bytes = field(repr=False)

    @property
    def pixel_count(self) -> int:
        """Width × height from the header; the cost of decoding grows with it."""
        return self.image.width * self.image.height

    def pause_with(self, pause: Callable[[], object]) -> None:
        """Call `pause` after every `PART_BYTES` of a JPEG file, in the thread that decodes it."""
        if self.image.format in JPEG:
            self.image.fp = _PausingFile(self.data, pause)
            self.image.decodermaxblock = PART_BYTES

    def pixels(self, look: Look) -> UInt8Array:
        """Decode the picture and make it look like the training data.

        Args:
            look: How the model's training images look.

        Returns:
            uint8, shape `(28, 28)`, 0 = background, 255 = full ink.

        Raises:
            InvalidImage: If the file is truncated or damaged.
        """
        return normalize(self._grey(), look)

    def unchanged(self) -> UInt8Array:
        """Decode a picture that looks like the training data already.

        Returns:
            uint8, shape `(28, 28)`, 255 = white.

        Raises:
            InvalidImage: If the file is truncated or damaged.
            InvalidPixels: If the picture has another size.
        """
        if self.image.size != (SIDE, SIDE):
            raise InvalidPixels(
                f"Without normalizing, a picture must have {SIDE} × {SIDE} pixels, "
                f"not {self.image.width} × {self.image.height}."
            )
        return self._grey()

    def preview(self, side: int) -> Image.Image:
        """Decode for people: upright RGB on white, neither side longer than `side` pixels.

        Raises:
            InvalidImage: If the file is truncated or damaged.
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
        return InvalidImage(f"The {self.image.format} file is damaged: {error}.")


class _PausingFile(io.BytesIO):
    """A file that pauses before every read."""

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
        max_pixels: Maximum of width × height.

    Raises:
        InvalidImage: If `data` is empty, of an unknown format, or of a size or number of frames
            that Loupe refuses.
    """
    set_up_pillow()
    if not data:
        raise InvalidImage("The image is empty: it has no bytes.")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # Decode in one go: after every block, the decoder waits for Python's lock.
        image.decodermaxblock = len(data)
        animated = image.format in MULTI_FRAME and bool(getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        raise InvalidImage(f"Not a {FORMATS_LISTED} image, but {_describe(data)}.") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError) as error:
        raise InvalidImage(f"The file is damaged: {error}.") from error
    size = f"{image.width:,} × {image.height:,}"
    if image.mode == "LAB":  # Pillow decodes LAB but cannot convert it
        raise InvalidImage(f"The {image.format} file has LAB colours; save it in RGB.")
    if image.width * image.height > max_pixels:
        raise InvalidImage(
            f"The image has {size} = {image.width * image.height:,} pixels. "
            f"The limit is {max_pixels:,} (LOUPE_MAX_IMAGE_PIXELS).",
            code="image_too_large",
        )
    if min(image.size) < MIN_SIDE:
        raise InvalidImage(
            f"The image has {size} pixels; at least {MIN_SIDE} × {MIN_SIDE} are needed.",
            code="image_too_small",
        )
    if animated:
        raise InvalidImage(
            f"The {image.format} file has several frames; send one picture.", code="animated_image"
        )
    return Picture(image, data)


def read_file(path: str | Path) -> bytes:
    """Return a picture file's bytes, without waiting for pipes or reading huge files.

    Raises:
        InvalidImage: If the path is not a regular file, or the file is too large.
        OSError: If it cannot be read.
    """
    return read_with_status(path)[0]


def read_with_status(path: str | Path) -> tuple[bytes, os.stat_result]:
    """Return a picture file's bytes, as `read_file` does, and its status after reading.

    This takes a third of the time of `open(path, "rb").read()` with `os.stat` before and after,
    which matters for small pictures.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidImage(
                "This is a folder. To score its pictures: loupe score"
                if stat.S_ISDIR(status.st_mode)
                else "This is not a regular file."
            )
        if status.st_size > MAX_FILE_BYTES:
            raise InvalidImage(
                f"The file has {status.st_size:,} bytes; a picture has at most {MAX_FILE_BYTES:,}."
            )
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
    special = "transparency" in image.info or "exif" in image.info
    if image.mode == "L" and image.format == "PNG" and not special:
        # Takes half the time of np.asarray(image).
        pixels = np.frombuffer(image.tobytes(), np.uint8)
        return pixels.reshape(image.height, image.width)
    shown = _on_white(image)
    return np.asarray(shown if shown.mode == "L" else shown.convert("L"))  # converting copies


def _on_white(image: Image.Image) -> Image.Image:
    """Decode to eight bits, upright, with transparency over white."""
    image.load()
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)  # the conversions below drop the EXIF data
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Stretch 16-bit, 32-bit and float greys to 0..255; Pillow's own conversion clips them."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float32)).astype(np.float64)
    if image.mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.astype(np.uint8))


def _describe(data: bytes) -> str:
    """Describe bytes that are not an image."""
    head = data[:200]
    if head.lstrip().startswith((b"http://", b"https://")):
        return "the text of a URL; Loupe fetches nothing, send the image's bytes"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(data):,} bytes of an unknown format"
    if text.isprintable() or "\n" in text:
        return f"text starting {text[:40]!r}"
    return f"{len(data):,} unreadable bytes"
