"""Facts from the header of a picture file, read without Pillow and at a bounded cost.

They decide whether a picture is refused, decoded in this process, or decoded in another one.
"""

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Literal, TypeAlias

from loupe.errors import InvalidImage

Kind: TypeAlias = Literal["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
File: TypeAlias = "bytes | memoryview"

MIN_SIDE = 2  # pixels; smaller pictures show nothing
TINY_PIXELS = 64 * 64  # decoding so few takes less time than handing them to another process
TINY_BYTES = 16 * 1024  # 64 × 64 pixels with transparency fit in
TINY_SEGMENTS = 32  # of a JPEG or PNG file
MAX_SEGMENTS = 1_000  # before the pixels of a JPEG file; photos with depth maps have hundreds
MAX_SCANS = 100  # of a JPEG file; encoders write about ten
BYTES_PER_PIXEL = 8  # that decoding may take
METADATA_COST = 100  # of a byte besides the pixels; Pillow reads it in Python
WEBP_SHARE = 0.5  # of the pixels of other formats; libwebp takes twice the memory for each

PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
MAGICS: dict[bytes, Kind] = {
    PNG_MAGIC: "PNG",
    JPEG_MAGIC: "JPEG",
    b"RIFF": "WEBP",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II": "TIFF",
    b"MM": "TIFF",
}
# Chunks of PNG files that are not compressed, and the pixels. Others can unpack to megabytes.
PLAIN_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB sBIT bKGD pHYs tIME tEXt eXIf".split()
)
# JPEG markers. Source: ITU-T T.81, table B.1.
START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
START_OF_SCAN, END_OF_IMAGE, PADDING = 0xDA, 0xD9, 0xFF
PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})
PICTURE_LIST = 0xE2  # APP2 lists the pictures of an MPO file

TIFF_VERSION, TIFF_LONG, TIFF_SIDES = 42, 4, (256, 257)
TIFF_ENTRIES = 16  # the size is among the first


def check_header(data: File, max_pixels: int) -> None:
    """Refuse a picture whose header names a size that Loupe does not decode.

    Raises:
        InvalidImage: With the code `image_too_large` or `image_too_small`.
    """
    try:
        size = _size(data)
    except struct.error:  # the decoder says that the file is truncated
        return
    if size is not None:
        check_size(*size, max_pixels, is_webp=kind_of(data) == "WEBP")


def check_size(width: int, height: int, max_pixels: int, *, is_webp: bool) -> None:
    """Refuse a picture of a size that Loupe does not decode, as `check_header` does."""
    limit = int(max_pixels * WEBP_SHARE) if is_webp else max_pixels
    if width * height > limit:
        raise InvalidImage(
            f"The image has {width:,} × {height:,} = {width * height:,} pixels. The limit is "
            f"{limit:,} ({'half of ' if is_webp else ''}LOUPE_MAX_IMAGE_PIXELS).",
            code="image_too_large",
        )
    if min(width, height) < MIN_SIDE:
        raise InvalidImage(
            f"The image has {width:,} × {height:,} pixels; "
            f"at least {MIN_SIDE} × {MIN_SIDE} are needed.",
            code="image_too_small",
        )


def check_segments(data: bytes) -> None:
    """Refuse a JPEG file whose segments or scans cost far more than its pixels.

    Raises:
        InvalidImage: With the code `image_too_costly`.
    """
    if kind_of(data) != "JPEG":
        return
    if next(islice(_segments(data), MAX_SEGMENTS, None), None) is not None:
        raise too_costly(f"The JPEG file has more than {MAX_SEGMENTS:,} segments.")
    if _has_one_scan(data):
        return  # the decoder ignores further ones, and counting takes a tenth of the time
    # In compressed pixels, a zero follows each byte 255.
    scans = data.count(bytes((PADDING, START_OF_SCAN)))
    if scans > MAX_SCANS:
        raise too_costly(f"The JPEG file has {scans:,} scans; the limit is {MAX_SCANS}.")


def too_costly(message: str) -> InvalidImage:
    """Return the error for a picture whose decoding takes too much time or memory."""
    return InvalidImage(message, code="image_too_costly")


def kind_of(data: File) -> Kind | None:
    """Return the format that the first bytes name, or `None` for others."""
    for magic, kind in MAGICS.items():
        if data[: len(magic)] == magic:
            return kind
    return None


def estimated_bytes(data: File, max_pixels: int) -> int:
    """Return the memory that decoding may take besides the file."""
    try:
        size = _size(data)
    except struct.error:
        return 0
    pixels = max_pixels if size is None else min(max_pixels, size[0] * size[1])
    match kind_of(data):
        case "JPEG" if not _is_progressive(data):  # is scaled down while it is decoded
            return 2 * pixels
        case "WEBP":
            return int(BYTES_PER_PIXEL / WEBP_SHARE) * pixels
    return BYTES_PER_PIXEL * pixels


def estimated_cost(data: File, max_pixels: int) -> int:
    """Return a number that grows with the time of decoding: memory, and bytes besides the pixels.

    A picture of few pixels with megabytes of metadata takes longer than a photo.
    """
    memory = estimated_bytes(data, max_pixels)
    return memory + METADATA_COST * max(0, len(data) - memory)


def is_tiny(data: File) -> bool:
    """Return whether decoding is certainly quick: a small PNG or JPEG file of few, plain parts."""
    if len(data) > TINY_BYTES:
        return False
    try:
        match kind_of(data):
            case "PNG":
                return _is_tiny_png(data)
            case "JPEG":
                return _is_tiny_jpeg(data)
    except struct.error:
        pass
    return False


def _is_tiny_png(data: File) -> bool:
    width, height = struct.unpack_from(">II", data, 16)
    if width * height > TINY_PIXELS:
        return False
    start = len(PNG_MAGIC)
    for _ in range(TINY_SEGMENTS):
        length, chunk = struct.unpack_from(">I4s", data, start)
        if chunk not in PLAIN_CHUNKS:
            return False
        if chunk == b"IEND":
            return True
        start += 12 + length
    return False


def _is_tiny_jpeg(data: File) -> bool:
    for marker, start in islice(_segments(data), TINY_SEGMENTS):
        if marker == PICTURE_LIST:
            return False
        if marker in START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, start + 1)
            if width * height > TINY_PIXELS:
                return False
        elif marker == START_OF_SCAN:
            return True
    return False


def _size(data: File) -> tuple[int, int] | None:
    """Return width and height, or `None` for what only a decoder can read.

    Raises:
        struct.error: If the file is truncated.
    """
    match kind_of(data):
        case "PNG":
            width, height = struct.unpack_from(">II", data, 16)
        case "JPEG":
            _, start = _frame(data)
            height, width = struct.unpack_from(">HH", data, start + 1)
        case "GIF":
            width, height = struct.unpack_from("<HH", data, 6)
        case "BMP":
            is_first_version = struct.unpack_from("<I", data, 14) == (12,)
            width, height = struct.unpack_from("<HH" if is_first_version else "<ii", data, 18)
        case "WEBP":
            width, height = _webp_size(data)
        case "TIFF":
            return _tiff_size(data)
        case None:
            return None
    return width, abs(height)


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


def _is_progressive(data: File) -> bool:
    return _frame(data)[0] in PROGRESSIVE


def _has_one_scan(data: File) -> bool:
    """Return whether the first scan of a JPEG file that is not progressive has all components."""
    components = 0
    for marker, start in islice(_segments(data), MAX_SEGMENTS):
        if marker in PROGRESSIVE or start + 5 >= len(data):
            return False
        if marker in START_OF_FRAME:
            components = data[start + 5]
        elif marker == START_OF_SCAN:
            return data[start] == components
    return False


def _frame(data: File) -> tuple[int, int]:
    """Return marker and start of a JPEG file's frame header."""
    for marker, start in islice(_segments(data), MAX_SEGMENTS):
        if marker in START_OF_FRAME:
            return marker, start
    raise struct.error("no frame")


def _segments(data: File) -> Iterator[tuple[int, int]]:
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
