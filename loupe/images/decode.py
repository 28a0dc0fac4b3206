"""Read pictures safely.

`open_picture` reads only the header and refuses what is unsafe to decode. `Picture.pixels` decodes:
to eight bits, on white, in sRGB, to grey, and upright.
"""

import math
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from loupe.errors import InvalidImage, InvalidPixels
from loupe.files import ReadableFolders
from loupe.images.formats import FORMATS_LISTED, File, collection_of, format_of
from loupe.images.header import check_header, check_segments, check_size, is_tiny, too_costly
from loupe.images.looks.ink import Symbols
from loupe.images.normalize import normalize_pixels, split_pixels
from loupe.images.pixels.colour import to_srgb
from loupe.images.pixels.depth import ToBytes, to_bytes_of
from loupe.images.pixels.opening import (
    DECODING_ERRORS,
    METADATA,
    has_several_frames,
    open_image,
    orientation,
    unread,
)
from loupe.images.spec import ImageSpec, Normalize, UInt8Array
from loupe.images.steps import Step, recording

DRAFT = 4  # times the image; libjpeg scales down to about this, ten times faster on photos
MAX_WHOLE_PIXELS = 4_000_000  # larger pictures shrink to fewer before they are normalized
TILE_SIDE = 512  # pixels; colours are converted tile by tile
MAX_FILE_BYTES = 256 * 2**20  # the largest accepted picture takes less, even uncompressed
JPEG = frozenset({"JPEG", "MPO"})  # phones append a preview or depth map, which makes an MPO
UNUSED_ALPHA = frozenset({"BMP", "ICO"})
# Metadata of a PNG file that change how its pixels look, as Pillow names them.
MEANINGFUL = METADATA | {"transparency", "icc_profile"}
UPRIGHT = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
OUT_OF_MEMORY = "decoder error -9"  # IMAGING_CODEC_MEMORY, for which Pillow has no text


class Picture:
    """A picture whose header has been checked and whose pixels have not been decoded."""

    def __init__(self, image: ImageFile.ImageFile, kind: str) -> None:
        self.image = image
        self.kind = kind

    def pixels(
        self, spec: ImageSpec, normalize: Normalize = "auto", steps: list[Step] | None = None
    ) -> UInt8Array:
        """Decode the picture, and make it look like the training data.

        Args:
            spec: Images of the model.
            normalize: `off` for a picture that looks like the training data already.
            steps: Gets the steps of the normalizing.

        Returns:
            uint8, shape `spec.shape`; see `normalize`.

        Raises:
            InvalidImage: If the file is truncated or damaged.
            InvalidPixels: If the picture must not be changed and has another size.
        """
        if normalize == "off" and self.image.size != (spec.width, spec.height):
            raise InvalidPixels(
                f"Without normalizing, a picture must have {spec.width} × {spec.height} pixels, "
                f"not {self.image.width} × {self.image.height}."
            )
        decoded = self._decode(spec)
        if normalize == "off":
            return decoded
        if steps is None:
            return normalize_pixels(decoded, spec)
        with recording(steps):
            return normalize_pixels(decoded, spec)

    def symbols(self, spec: ImageSpec) -> Symbols:
        """Decode the picture, and return an image and the box of each symbol; see `split_pixels`.

        Raises:
            InvalidImage: If the file is truncated or damaged, or shows too many symbols.
        """
        return split_pixels(self._decode(spec), spec)

    def preview(self, side: int) -> Image.Image:
        """Decode for people: upright RGB on white, neither side longer than `side` pixels.

        Raises:
            InvalidImage: If the file is truncated or damaged.
        """
        try:
            _draft(self.image, "RGB", (2 * side, 2 * side))
            shown = _decoded(self.image, "RGB")
        except DECODING_ERRORS as error:
            raise self._damaged(error) from error
        shown.thumbnail((side, side))
        return shown

    def _decode(self, spec: ImageSpec) -> UInt8Array:
        try:
            return _to_pixels(self.image, spec)
        except DECODING_ERRORS as error:
            raise self._damaged(error) from error

    def _damaged(self, error: BaseException) -> InvalidImage:
        if isinstance(error, MemoryError) or str(error) == OUT_OF_MEMORY:
            return too_costly(f"Decoding the {self.kind} file takes too much memory.")
        return InvalidImage(f"The {self.kind} file is damaged: {error}.")


def open_picture(data: File, *, max_pixels: int) -> Picture:
    """Check a picture's header without decoding its pixels.

    Args:
        data: A file of a format that Loupe reads.
        max_pixels: Maximum of width × height.

    Raises:
        InvalidImage: If `data` is empty, of an unknown format, or of a size or number of parts
            that Loupe refuses.
    """
    kind = _readable_kind(data)
    data = bytes(data)  # copies only a part of a body
    if not is_tiny(data):
        check_header(data, max_pixels)
        check_segments(data)
    return _open(data, kind, max_pixels)


def open_quick(data: File, *, max_pixels: int) -> Picture | None:
    """Check a picture's header, as `open_picture` does, if decoding is certainly quick.

    `None` means that another process should decode the picture.
    """
    kind = _readable_kind(data)
    return _open(bytes(data), kind, max_pixels) if is_tiny(data) else None


def _open(data: bytes, kind: str, max_pixels: int) -> Picture:
    try:
        image = open_image(data, kind)
        has_several = has_several_frames(image, data)
    except MemoryError as error:
        raise too_costly("Reading the file's header takes too much memory.") from error
    except DECODING_ERRORS as error:
        raise InvalidImage(
            f"The {kind} file is damaged, or of a variant that Loupe does not read: {error}."
        ) from error
    # Again: only Pillow reads the size of some TIFF files, and finds larger frames in a GIF.
    check_size(*image.size, max_pixels, kind)
    if has_several:
        raise InvalidImage(
            f"The {kind} file has several frames; send one picture.", code="animated_image"
        )
    return Picture(image, kind)


def _readable_kind(data: File) -> str:
    """Return the format of a file, or raise `InvalidImage` if Loupe does not read it."""
    if not data:
        raise InvalidImage("The image is empty: it has no bytes.")
    known = format_of(data)
    if known is None:
        raise InvalidImage(f"Not a {FORMATS_LISTED} image, but {_describe(data)}.")
    if not known.is_read:
        raise unread(known.name)
    return known.name


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
                f"The file has {status.st_size:,} bytes; a picture has at most {MAX_FILE_BYTES:,}. "
                "To score an archive, a table or an array: loupe score"
            )
        data = os.read(descriptor, status.st_size)
        while len(data) < status.st_size and (
            more := os.read(descriptor, status.st_size - len(data))
        ):
            data += more
        return data, os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _to_pixels(image: ImageFile.ImageFile, spec: ImageSpec) -> UInt8Array:
    """Decode to uint8, grey or RGB: upright, transparency over white, 0 = black.

    The shape is `(height, width)` or `(height, width, 3)` of the picture, or of a smaller copy.
    """
    mode = "L" if spec.channels == 1 else "RGB"
    _draft(image, mode, (DRAFT * spec.width, DRAFT * spec.height))
    is_whole = image.width * image.height <= MAX_WHOLE_PIXELS
    if image.mode == mode and image.format == "PNG" and is_whole:
        image.load()
        if MEANINGFUL.isdisjoint(image.info):  # it may follow the pixels
            return _array(image)
    return _array(_decoded(image, mode))


def _array(image: Image.Image) -> UInt8Array:
    """Return the pixels of grey or RGB, in less time than `np.asarray(image)`."""
    size = (image.height, image.width)
    shape = size if image.mode == "L" else (*size, 3)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)


def _draft(image: ImageFile.ImageFile, mode: str, size: tuple[int, int]) -> None:
    """Ask libjpeg to scale a photo down, and to decode only its brightness where that is enough."""
    if image.format in JPEG:
        image.draft(mode if to_srgb(image) is None else "RGB", size)


def _decoded(image: Image.Image, mode: str) -> Image.Image:
    """Decode to `L` or `RGB`: upright, transparency over white, at most `MAX_WHOLE_PIXELS`.

    Besides what Pillow's decoder allocates, this takes memory for the result and for one tile.
    """
    image.load()
    _drop_unused_alpha(image)
    factor = math.ceil(math.sqrt(image.width * image.height / MAX_WHOLE_PIXELS))
    tiles = partial(_tiles, image, TILE_SIDE // factor * factor)
    to_bytes = to_bytes_of(image, lambda: (tile for _, _, tile in tiles()))
    colours = to_srgb(image)
    kept = mode if colours is None else colours.input_mode
    if max(image.size) <= TILE_SIDE:
        shown = _on_white(image, to_bytes).convert(kept)
    else:
        shown = Image.new(kept, (-(-image.width // factor), -(-image.height // factor)))
        for left, top, tile in tiles():
            converted = _on_white(tile, to_bytes).convert(kept)
            shown.paste(converted.reduce(factor), (left // factor, top // factor))
    if colours is not None:
        shown = colours.apply(shown).convert(mode)
    upright = UPRIGHT.get(orientation(image))
    return shown if upright is None else shown.transpose(upright)


def _tiles(image: Image.Image, side: int) -> Iterator[tuple[int, int, Image.Image]]:
    """Yield copies of parts of a picture, with their left and top."""
    for top in range(0, image.height, side):
        for left in range(0, image.width, side):
            right, bottom = min(left + side, image.width), min(top + side, image.height)
            yield left, top, image.crop((left, top, right, bottom))


def _drop_unused_alpha(image: Image.Image) -> None:
    """Make a BMP or ICO file opaque if its alpha, 0 everywhere, has never been set."""
    may_be_unused = image.format in UNUSED_ALPHA and image.mode == "RGBA"
    if may_be_unused and image.getchannel("A").getextrema() == (0, 0):
        image.putalpha(255)


def _on_white(image: Image.Image, to_bytes: ToBytes | None) -> Image.Image:
    """Return a picture, or a part of one, in eight bits; if it is transparent, on white."""
    if to_bytes is not None:
        image = to_bytes(image)
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode == "La" else image.mode).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def _describe(data: File) -> str:
    """Describe bytes that are not an image."""
    head = bytes(data[:200])
    if head.lstrip().startswith((b"http://", b"https://")):
        return "the text of a URL; Loupe fetches nothing, send the image's bytes"
    if kind := collection_of(data):
        return f"{kind}; `loupe score` reads files that hold many pictures"
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError:
        return f"{len(data):,} bytes of an unknown format"
    if text.isprintable() or "\n" in text:
        return f"text starting {text[:40]!r}"
    return f"{len(data):,} unreadable bytes"
