"""File formats, recognised by their first bytes, and the sizes in the headers of pictures.

Without Pillow, and at a bounded cost.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

File: TypeAlias = "bytes | memoryview"

HEAD_BYTES: Final = 1024  # enough for all formats; comments may precede the root of an SVG file


PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
MAX_SEGMENTS = 1_000  # before the pixels of a JPEG file; photos with depth maps have hundreds
# JPEG markers. Source: ITU-T T.81, table B.1.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE, PADDING = 0xDA, 0xD9, 0xFF
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})
PICTURE_LIST = 0xE2  # APP2 lists the pictures of an MPO file
JPEG2000_CODESTREAM = re.compile(rb"\xff\x4f\xff\x51")
IMAGE_EXTENTS = re.compile(rb"\0\0\0\x14ispe\0{4}(.{8})", re.DOTALL)
TIFF_VERSION, TIFF_LONG, TIFF_SIDES = 42, 4, (256, 257)
TIFF_ENTRIES = 16  # the size is among the first


class Format(NamedTuple):
    """A file format, and whether Loupe reads it as a picture."""

    name: str
    is_read: bool


# What is looked for most often comes first; camera RAW before TIFF, since many start like it.
PATTERNS: Final = tuple(
    (Format(name, is_read), re.compile(pattern, re.DOTALL))
    for name, is_read, pattern in (
        ("PNG", True, rb"\x89PNG\r\n\x1a\n"),
        ("JPEG", True, rb"\xff\xd8\xff"),
        ("WebP", True, rb"RIFF.{4}WEBP"),
        ("GIF", True, rb"GIF8[79]a"),
        # A number that is the size of the second header follows the first one.
        ("BMP", True, rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        (
            "camera RAW",
            False,
            rb"II(\*\0.{4}CR|U\0|R[OS])|MMOR|FUJIFILMCCD|FOVb|\0MRM|.{4}ftypcrx ",
        ),
        # Version 43 is BigTIFF. Some programs write the version in the other byte order.
        ("TIFF", True, rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0"),
        # The first brand, or one of those that a file is compatible with.
        ("AVIF", True, rb".{4}ftyp(avi[fs]|m[is]f1.{4}(.{4}){0,12}?avi[fs])"),
        ("HEIC", True, rb".{4}ftyp(he[iv][cmsx]|m[is]f1|.{8}(.{4}){0,12}?(heic|mif1))"),
        ("JPEG 2000", True, rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
        ("ICO", True, rb"\0\0\x01\0[^\0]\0.{3}\0"),
        ("PPM", True, rb"P[1-6Ff]\s(#[^\n]*\n|\s)*\d+\s(#[^\n]*\n|\s)*\d+\s"),
        (
            "SVG",
            False,
            rb"(\xef\xbb\xbf)?\s*<(svg[\s>]|(\?xml|!--|!DOCTYPE svg).*?<(svg:)?svg[\s>])",
        ),
        ("SVG (compressed)", False, rb"\x1f\x8b.{8}[^\0]{1,80}\.svg\0"),
        ("PDF", False, rb"%PDF-"),
        ("EPS", False, rb"%!PS|\xc5\xd0\xd3\xc6"),
        ("PSD", False, rb"8BPS"),
        ("XCF", False, rb"gimp xcf "),
        ("JPEG XL", False, rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
        ("JPEG XR", False, rb"II\xbc"),
        ("DICOM", False, rb".{128}DICM"),
        ("FITS", False, rb"SIMPLE  ="),
        ("OpenEXR", False, rb"\x76\x2f\x31\x01"),
        ("Radiance HDR", False, rb"#\?(RADIANCE|RGBE)"),
        ("DDS", False, rb"DDS "),
        ("DjVu", False, rb"AT&TFORM"),
        ("ICNS", False, rb"icns"),
        ("QOI", False, rb"qoif"),
        ("PCX", False, rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]"),
        ("SGI", False, rb"\x01\xda[\0\x01][\x01\x02]"),
        ("PAM", False, rb"P7\n"),
        ("XPM", False, rb"/\* XPM \*/"),
        ("WMF or EMF", False, rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF"),
        ("MP4 or QuickTime video", False, rb".{4}(ftyp|moov|mdat)"),
        ("AVI video", False, rb"RIFF.{4}AVI "),
        ("Matroska or WebM video", False, rb"\x1a\x45\xdf\xa3"),
        ("MPEG video", False, rb"\0\0\x01[\xba\xb3]"),
        ("WMV video", False, rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    )
)
# Files that hold many pictures. Several office formats are zip archives, too.
COLLECTIONS: Final = (
    ("a zip archive", re.compile(rb"PK(\x03\x04|\x05\x06)")),
    ("a tar archive", re.compile(rb".{257}ustar", re.DOTALL)),
    ("a compressed file", re.compile(rb"\x1f\x8b\x08|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd")),
    ("a Parquet file", re.compile(rb"PAR1")),
    ("an array of NumPy", re.compile(rb"\x93NUMPY")),
    ("an IDX file", re.compile(rb"\0\0[\x08-\x0e][\x02-\x04]\0")),
)
FORMATS_LISTED: Final = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC, JPEG 2000, ICO or PPM"


def format_of(head: File) -> Format | None:
    """Return the format of a file, or `None` for an unknown one.

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a smaller one.
    """
    for known, pattern in PATTERNS:
        if pattern.match(head, 0, HEAD_BYTES):
            return known
    return None


def collection_of(head: File) -> str | None:
    """Return what a file is that `loupe score` may read, for an error; `None` for other files."""
    for kind, pattern in COLLECTIONS:
        if pattern.match(head, 0, HEAD_BYTES):
            return kind
    return None


def size_of(data: File) -> tuple[int, int] | None:
    """Return width and height, or `None` for what only a decoder can read.

    Raises:
        struct.error: If the file is truncated.
    """
    known = format_of(data)
    read = SIZES.get(known.name) if known is not None else None
    return None if read is None else read(data)


def _png_size(data: File) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg_size(data: File) -> tuple[int, int]:
    _, start = frame(data)
    height, width = struct.unpack_from(">HH", data, start + 1)
    return width, height


def _gif_size(data: File) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp_size(data: File) -> tuple[int, int]:
    is_first_version = struct.unpack_from("<I", data, 14) == (12,)
    width, height = struct.unpack_from("<HH" if is_first_version else "<ii", data, 18)
    return width, abs(height)  # rows from top to bottom have a negative height


def _ico_size(data: File) -> tuple[int, int]:
    """Return the size of the largest picture in an icon: a PNG file, or a BMP file and a mask."""
    sizes = []
    for entry in range(6, 6 + 16 * data[4], 16):
        (start,) = struct.unpack_from("<I", data, entry + 12)
        if data[start : start + len(PNG_MAGIC)] == PNG_MAGIC:
            width, height = struct.unpack_from(">II", data, start + 16)
        else:
            width, height = struct.unpack_from("<II", data, start + 4)
            height //= 2
        sizes.append((width, height))
    return max(sizes, key=math.prod)


def _heif_size(data: File) -> tuple[int, int] | None:
    """Return the size of the largest picture in an AVIF or HEIC file, which may have previews.

    Source: ISO/IEC 23008-12, section 6.5.3, "Image spatial extents".
    """
    sizes = [struct.unpack(">II", match[1]) for match in IMAGE_EXTENTS.finditer(data)]
    return max(((width, height) for width, height in sizes), key=math.prod, default=None)


def _jpeg2000_size(data: File) -> tuple[int, int]:
    """Return the size in a JPEG 2000 codestream. Source: ITU-T T.800, section A.5.1."""
    found = JPEG2000_CODESTREAM.search(data)
    if found is None:
        raise struct.error("no codestream")
    right, bottom, left, top = struct.unpack_from(">IIII", data, found.start() + 8)
    return right - left, bottom - top


def _ppm_size(data: File) -> tuple[int, int] | None:
    """Return the size in the text header of a PBM, PGM, PPM or PFM file, which has comments."""
    numbers = re.findall(rb"\s(\d{1,10})\b", re.sub(rb"#[^\n]*\n", b" ", bytes(data[:HEAD_BYTES])))
    return (int(numbers[0]), int(numbers[1])) if len(numbers) > 1 else None


def _tiff_size(data: File) -> tuple[int, int] | None:
    """Return the size in the first directory, whose entries are sorted, of a TIFF file.

    Source: TIFF 6.0, section 2.
    """
    order = "<" if data[:2] == b"II" else ">"
    version, start = struct.unpack_from(f"{order}HI", data, 2)
    if version != TIFF_VERSION:
        return None
    found: dict[int, int] = {}
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for position in range(start + 2, start + 2 + 12 * min(count, TIFF_ENTRIES), 12):
        tag, kind, _ = struct.unpack_from(f"{order}HHI", data, position)
        if tag in TIFF_SIDES:
            (found[tag],) = struct.unpack_from(order + "HI"[kind == TIFF_LONG], data, position + 8)
    width, height = (found.get(tag) for tag in TIFF_SIDES)
    return None if width is None or height is None else (width, height)


def _webp_size(data: File) -> tuple[int, int]:
    """Return the size in a WebP file. Source: RFC 9649."""
    match bytes(data[12:16]):
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
    return low_width + (high_width << 16) + 1, low_height + (high_height << 16) + 1


def frame(data: File) -> tuple[int, int]:
    """Return marker and start of a JPEG file's frame header."""
    for marker, start in islice(segments(data), MAX_SEGMENTS):
        if marker in START_OF_FRAME:
            return marker, start
    raise struct.error("no frame")


def segments(data: File) -> Iterator[tuple[int, int]]:
    """Yield the marker of each JPEG segment up to the first scan, and where its content starts.

    Padding counts as segments, since Pillow reads it as slowly.
    """
    start = 2
    while start + 4 <= len(data) and data[start] == PADDING:
        marker = data[start + 1]
        yield marker, start + 4
        if marker in (START_OF_SCAN, END_OF_IMAGE):
            return
        if marker == PADDING:
            start += 1
        elif marker in WITHOUT_LENGTH:
            start += 2
        else:
            start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")


SIZES: dict[str, Callable[[File], tuple[int, int] | None]] = {
    "PNG": _png_size,
    "JPEG": _jpeg_size,
    "WebP": _webp_size,
    "GIF": _gif_size,
    "BMP": _bmp_size,
    "TIFF": _tiff_size,
    "AVIF": _heif_size,
    "HEIC": _heif_size,
    "JPEG 2000": _jpeg2000_size,
    "ICO": _ico_size,
    "PPM": _ppm_size,
}
