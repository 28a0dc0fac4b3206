"""Open picture files with Pillow, and correct what it reads wrongly."""

import io
import re
import struct
import warnings
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import IO, Final, TypeAlias

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    ImagePalette,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from loupe.errors import InvalidImage

# Pillow's own `Image.open` looks for the format again, a twentieth of the time for a tiny picture.
PLUGINS: Final[dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.jpeg_factory,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "ICO": IcoImagePlugin.IcoImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
MULTI_FRAME: Final = frozenset({"PNG", "WEBP", "GIF", "TIFF", "AVIF"})
# Their own properties turn the picture. Source: ISO/IEC 23008-12, section 6.5.10 (`irot`, `imir`).
HEIF: Final = frozenset({"AVIF", "HEIC"})
HEIC_SEQUENCES: Final = frozenset({b"hevc", b"hevm", b"hevs", b"hevx", b"msf1"})
# Pillow's decoders raise any of these for damaged files.
DECODING_ERRORS: Final = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(RuntimeError, AssertionError, MemoryError, struct.error),
)
# Chunks of a PNG file without which the picture looks different, or has several frames.
NEEDED_CHUNKS: Final = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL"})
# An entry of the list of items. Source: ISO/IEC 14496-12, section 8.11.6.
EXIF_ITEM: Final = re.compile(rb"(infe[\2\3].{3}.{4,6})Exif", re.DOTALL)
# TIFF tags. Source: TIFF 6.0, sections 3, 5 and 8; TIFF/EP; DNG 1.7, "DNGVersion".
SUBFILE_TYPE, PLANAR, COLOUR_MAP, SUB_IFDS, DNG_VERSION = 254, 284, 320, 330, 50706
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339
UNKNOWN_MODE: Final = "unknown pixel mode"  # Pillow's error for values that it does not read
KINDS: Final = {1: "unsigned", 2: "signed", 3: "floating-point", 5: "complex", 6: "complex"}
REDUCED_COPY, MASK = 1, 4  # subfile types
SEPARATE = 2  # planar configuration
MAX_COPIES = 32  # each has at most half the width of the one before
TiffKey: TypeAlias = tuple[bytes, int, tuple[int], int, tuple[int, ...], tuple[int, ...]]
# Pillow's modes of values that it reads wrongly or not at all, by sample format and bits. libtiff
# returns them in the order of this machine. Source: TIFF 6.0, sections 3 and 19.
TIFF_VALUES: Final = {
    (1, 12): ("I;16", "I;12"),
    (1, 16): ("I;16", "I;16N"),
    (1, 32): ("I", "I;32N"),
    (2, 8): ("L", "L"),
    (2, 16): ("I", "I;16NS"),
    (2, 32): ("I", "I;32NS"),
    (3, 16): ("I;16", "I;16N"),
    (3, 32): ("F", "F;32NF"),
    (3, 64): ("F", "F;64NF"),
}
TIFF_MODES: Final[dict[TiffKey, tuple[str, str]]] = {
    (order, photometric, (format_,), fill_order, (bits,), ()): modes
    for (format_, bits), modes in TIFF_VALUES.items()
    for order, photometric, fill_order in product((b"II", b"MM"), (0, 1), (1, 2))
} | {  # grey and alpha, of 16 bits each: `loupe.images.pixels.depth` knows
    (order, 1, (1,), 1, (16, 16), (alpha,)): ("RGBA", "RGBA")
    for order, alpha in product((b"II", b"MM"), (1, 2))
}
# ImageMagick writes EXIF as text, and old versions under the second name.
RAW_EXIF, RAW_APP1 = "Raw profile type exif", "Raw profile type APP1"
ORIENTATION = 0x0112  # in EXIF
# Where Pillow finds the orientation, except in TIFF files.
METADATA: Final = frozenset({"exif", RAW_EXIF, RAW_APP1, "xmp", "XML:com.adobe.xmp"})


@cache
def set_up_pillow() -> None:
    """Configure Pillow once per process; `open_image` does so before it opens anything."""
    # Pillow's own limit holds for the process. `open_picture` checks each header against the
    # caller's limit instead.
    Image.MAX_IMAGE_PIXELS = None
    # Pillow warns of damaged metadata. Senders cause it, and it would fill the logs.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    # Further threads would take memory, and the cores that other pictures need.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    TiffImagePlugin.READ_LIBTIFF = True
    TiffImagePlugin.OPEN_INFO |= TIFF_MODES


@cache
def load_heif() -> Callable[[IO[bytes]], ImageFile.ImageFile]:
    """Import the decoder of HEIC files and return what opens them.

    Raises:
        InvalidImage: If it is not installed.
    """
    try:
        import pillow_heif
    except ImportError:
        raise InvalidImage(
            "HEIC files need the extra 'heif': pip install -e '.[heif]' in a checkout; "
            "`make install` includes it, and docs/install.md has other ways."
        ) from None
    # Previews and depth maps are not decoded.
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
    return pillow_heif.HeifImageFile


def open_image(data: bytes, kind: str) -> ImageFile.ImageFile:
    """Read the header of a picture file of a format that Loupe reads.

    Raises:
        InvalidImage: If a package is missing to read it.
        Exception: One of `DECODING_ERRORS` if the file is damaged.
    """
    set_up_pillow()
    plugin = load_heif() if kind == "HEIC" else PLUGINS[kind]
    try:
        image = plugin(io.BytesIO(data))
    except DECODING_ERRORS as error:
        needed = _needed_parts(data, kind)
        if needed is None:
            raise _tiff_variant(data) or error if str(error) == UNKNOWN_MODE else error from None
        image = plugin(io.BytesIO(needed))
    # Decode in one go: after every block, the decoder waits for Python's lock.
    image.decodermaxblock = len(data)
    if kind == "PNG":
        _mend_png(image, bits=data[24])
    elif kind in HEIF:
        image.info.pop("xmp", None)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _mend_tiff(image)
    return image


def unread(name: str) -> InvalidImage:
    """Return the error for a format that Loupe knows but does not read."""
    return InvalidImage(f"Loupe does not read {name} files. Save the picture as PNG or JPEG.")


def has_several_frames(image: ImageFile.ImageFile, data: bytes) -> bool:
    """Return whether a file has several pictures that are not copies of one.

    The first picture of an MPO file, and of a HEIC file without a sequence, is the photo.
    """
    if image.format == "HEIF":
        return data[8:12] in HEIC_SEQUENCES
    is_animated = image.format in MULTI_FRAME and getattr(image, "is_animated", False)
    if is_animated and isinstance(image, TiffImagePlugin.TiffImageFile):
        return not _are_copies(image)
    return bool(is_animated)


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, or 1 if it is missing or damaged."""
    if METADATA.isdisjoint(image.info) and image.format != "TIFF":
        return 1  # the usual case, without Pillow's object for EXIF
    if RAW_APP1 in image.info:
        image.info.setdefault(RAW_EXIF, image.info[RAW_APP1])
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DECODING_ERRORS:
        return 1


def _are_copies(image: TiffImagePlugin.TiffImageFile) -> bool:
    """Return whether all pictures after the first are smaller copies of it, or masks."""
    try:
        for number in range(1, MAX_COPIES):
            image.seek(number)
            if not image.tag_v2.get(SUBFILE_TYPE, 0) & (REDUCED_COPY | MASK):
                return False
    except EOFError:
        return True
    finally:
        image.seek(0)
    return False


def _tiff_variant(data: bytes) -> UnidentifiedImageError | None:
    """Return the error that names the values of a TIFF file, if its first directory is intact."""
    directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
    file = io.BytesIO(data)
    try:
        file.seek(directory.next)
        directory.load(file)
        bits = ", ".join(map(str, directory.get(BITS_PER_SAMPLE, (1,))))
        kind = KINDS.get(directory.get(SAMPLE_FORMAT, (1,))[0], "unknown")
    except DECODING_ERRORS:
        return None
    return UnidentifiedImageError(f"{kind} values of {bits} bits. Save it as PNG")


def _needed_parts(data: bytes, kind: str) -> bytes | None:
    """Return a file without the metadata that other programs ignore if they are damaged."""
    if kind == "AVIF":
        return EXIF_ITEM.sub(rb"\1skip", data)
    return _needed_chunks(data) if kind == "PNG" else None


def _needed_chunks(png: bytes) -> bytes:
    """Return a PNG file without optional chunks."""
    parts, start = [png[:8]], 8
    while start + 12 <= len(png):
        length, name = struct.unpack_from(">I4s", png, start)
        if name in NEEDED_CHUNKS:
            parts.append(png[start : start + 12 + length])
        start += 12 + length
    return b"".join(parts)


def _mend_png(image: ImageFile.ImageFile, bits: int) -> None:
    """Scale the transparent colour as Pillow scales the pixels; refuse a missing palette."""
    if image.mode == "P" and image.palette is None:
        raise UnidentifiedImageError("it has no palette")
    colour = image.info.get("transparency")
    if isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = colour * 255 // (2**bits - 1)
    elif isinstance(colour, tuple) and bits == 16:
        image.info["transparency"] = tuple(value >> 8 for value in colour)


def _mend_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Read palettes that have 8 bits for each colour, not 16; refuse what Pillow reads wrongly."""
    tags = image.tag_v2
    is_preview = tags.get(SUBFILE_TYPE, 0) & REDUCED_COPY and SUB_IFDS in tags
    if is_preview or DNG_VERSION in tags:
        raise unread("camera RAW")
    if image.mode == "P" and max(tags[COLOUR_MAP]) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[COLOUR_MAP]))
    if len(tags.get(BITS_PER_SAMPLE, ())) == 2 and tags.get(PLANAR) == SEPARATE:
        # Pillow would read the alpha as a colour.
        raise UnidentifiedImageError("grey and alpha are stored apart. Save it as PNG")
