"""Read pictures safely.

`open_picture` reads only the header and refuses what is unsafe to decode. `Picture.pixels` decodes.
"""

import io
import math
import os
import stat
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from loupe.errors import InvalidImage, InvalidPixels
from loupe.files import ReadableFolders
from loupe.images.header import (
    File,
    check_header,
    check_segments,
    check_size,
    is_tiny,
    kind_of,
    too_costly,
)
from loupe.images.normalize import normalize
from loupe.images.spec import SIDE, Look, UInt8Array

DRAFT_SIZE = (4 * SIDE, 4 * SIDE)  # libjpeg scales down to about this: ten times faster on photos
MAX_WHOLE_PIXELS = 4_000_000  # larger pictures shrink to fewer before they are normalized
TILE_SIDE = 512  # pixels; colours are converted tile by tile
MAX_FILE_BYTES = 256 * 2**20  # the largest accepted picture takes less, even uncompressed
# Pillow imports other formats too, and all of them, unless these are loaded before.
FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        WebPImagePlugin.WebPImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)
FORMATS_LISTED = "PNG, JPEG, WebP, BMP, GIF or TIFF"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
JPEG = frozenset({"JPEG", "MPO"})  # phones append a preview or depth map, which makes an MPO
MULTI_FRAME = frozenset({"PNG", "WEBP", "GIF", "TIFF"})  # of an MPO, the first picture is the photo
EXIF_ORIENTATION = 0x0112
UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's decoders raise any of these for damaged files.
DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, MemoryError)
OUT_OF_MEMORY = "decoder error -9"  # IMAGING_CODEC_MEMORY, for which Pillow has no text


@cache
def set_up_pillow() -> None:
    """Configure Pillow once per process; `open_picture` does so before it opens anything."""
    # Pillow's own limit holds for the process. `open_picture` checks each header against the
    # caller's limit instead.
    Image.MAX_IMAGE_PIXELS = None
    # Pillow warns of damaged metadata. Senders cause it, and it would fill the logs.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Picture:
    """A picture whose header has been checked and whose pixels have not been decoded."""

    def __init__(self, image: ImageFile.ImageFile) -> None:
        self.image = image

    @property
    def pixel_count(self) -> int:
        """Width × height from the header; the cost of decoding grows with it."""
        return self.image.width * self.image.height

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
            shown = _decoded(self.image, "RGB")
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
        if isinstance(error, MemoryError) or str(error) == OUT_OF_MEMORY:
            return too_costly(f"Decoding the {self.image.format} file takes too much memory.")
        return InvalidImage(f"The {self.image.format} file is damaged: {error}.")


def open_picture(data: File, *, max_pixels: int) -> Picture:
    """Check a picture's header without decoding its pixels.

    Args:
        data: A file of one of `FORMATS`.
        max_pixels: Maximum of width × height.

    Raises:
        InvalidImage: If `data` is empty, of an unknown format, or of a size or number of parts
            that Loupe refuses.
    """
    set_up_pillow()
    if not data:
        raise InvalidImage("The image is empty: it has no bytes.")
    if kind_of(data) is None:
        raise InvalidImage(f"Not a {FORMATS_LISTED} image, but {_describe(bytes(data))}.")
    data = bytes(data)  # a copy only of a part of a body
    if not is_tiny(data):
        check_header(data, max_pixels)
        check_segments(data)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        # Decode in one go: after every block, the decoder waits for Python's lock.
        image.decodermaxblock = len(data)
        animated = image.format in MULTI_FRAME and bool(getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        raise InvalidImage(f"Not a {FORMATS_LISTED} image, but {_describe(data)}.") from None
    except MemoryError as error:
        raise too_costly("Reading the file's header takes too much memory.") from error
    except DECODING_ERRORS as error:
        raise InvalidImage(f"The file is damaged: {error}.") from error
    if image.mode == "LAB":  # Pillow decodes LAB but cannot convert it
        raise InvalidImage(f"The {image.format} file has LAB colours; save it in RGB.")
    # Again: only Pillow reads the size of a TIFF file, and finds larger frames in a GIF.
    check_size(*image.size, max_pixels, is_webp=image.format == "WEBP")
    if animated:
        raise InvalidImage(
            f"The {image.format} file has several frames; send one picture.", code="animated_image"
        )
    return Picture(image)


def read_file(path: str | Path, folders: ReadableFolders | None = None) -> bytes:
    """Return a picture file's bytes, without waiting for pipes or reading huge files.

    Args:
        path: The file.
        folders: Those that the file must be in; all by default.

    Raises:
        InvalidImage: If the path is not a regular file, or the file is too large.
        OSError: If it cannot be read.
    """
    return read_with_status(path, folders)[0]


def read_with_status(
    path: str | Path, folders: ReadableFolders | None = None
) -> tuple[bytes, os.stat_result]:
    """Return a picture file's bytes, as `read_file` does, and its status after reading.

    This takes a third of the time of `open(path, "rb").read()` with `os.stat` before and after,
    which matters for small pictures.
    """
    if folders is None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    else:
        descriptor = folders.open(path)
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
    is_whole = image.width * image.height <= MAX_WHOLE_PIXELS
    if image.mode == "L" and image.format == "PNG" and is_whole and not special:
        # Takes half the time of np.asarray(image).
        pixels = np.frombuffer(image.tobytes(), np.uint8)
        return pixels.reshape(image.height, image.width)
    return np.asarray(_decoded(image, "L"))


def _decoded(image: Image.Image, mode: str) -> Image.Image:
    """Decode to `L` or `RGB`: upright, transparency over white, at most `MAX_WHOLE_PIXELS`.

    Besides what Pillow's decoder allocates, this takes memory for the result and for one tile.
    """
    image.load()
    orientation = image.getexif().get(EXIF_ORIENTATION, 1)
    factor = math.ceil(math.sqrt(image.width * image.height / MAX_WHOLE_PIXELS))
    side = TILE_SIDE // factor * factor
    if factor == 1 and max(image.size) <= side:
        shown = _on_white(image, _value_range(image, side)).convert(mode)
    else:
        values = _value_range(image, side)
        shown = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
        for left, top, tile in _tiles(image, side):
            converted = _on_white(tile, values).convert(mode)
            shown.paste(converted.reduce(factor), (left // factor, top // factor))
    upright = UPRIGHT.get(orientation)
    return shown if upright is None else shown.transpose(upright)


def _tiles(image: Image.Image, side: int) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield copies of parts of a picture, with their left and top."""
    for top in range(0, image.height, side):
        for left in range(0, image.width, side):
            right, bottom = min(left + side, image.width), min(top + side, image.height)
            yield left, top, image.crop((left, top, right, bottom))


def _on_white(image: Image.Image, values: tuple[float, float]) -> Image.Image:
    """Convert to eight bits, with transparency over white."""
    if image.mode.startswith(("I", "F")):
        image = _to_eight_bits(image, *values)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image


def _value_range(image: Image.Image, side: int) -> tuple[float, float]:
    """Return the values that become black and white in a picture of 16 or more bits."""
    if not image.mode.startswith(("I", "F")) or image.mode.startswith("I;16"):
        return 0.0, 65535.0
    low, high = math.inf, -math.inf
    for _, _, tile in _tiles(image, side):
        values = _values(tile)
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    return low, high


def _values(image: Image.Image) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(image, dtype=np.float32)).astype(np.float64)


def _to_eight_bits(image: Image.Image, low: float, high: float) -> Image.Image:
    """Stretch 16-bit, 32-bit and float greys to 0..255; Pillow's own conversion clips them."""
    values = _values(image)
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
