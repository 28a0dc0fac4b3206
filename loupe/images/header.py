"""Facts from the header of a picture file, read without Pillow and at a bounded cost.

They decide whether a picture is refused, decoded in this process, or decoded in another one.
"""

import struct
from itertools import islice

from loupe.errors import InvalidImage
from loupe.images.formats import (
    MAX_SEGMENTS,
    PADDING,
    PICTURE_LIST,
    PNG_MAGIC,
    PROGRESSIVE,
    START_OF_FRAME,
    START_OF_SCAN,
    File,
    format_of,
    frame,
    segments,
    size_of,
)

MIN_SIDE = 2  # pixels; smaller pictures show nothing
TINY_PIXELS = 64 * 64  # decoding so few takes less time than handing them to another process
TINY_BYTES = 16 * 1024  # 64 × 64 pixels with transparency fit in
TINY_SEGMENTS = 32  # of a JPEG or PNG file
MAX_SCANS = 100  # of a JPEG file; encoders write about ten
MAX_RUNS_BYTES = 8 * 2**20  # of a BMP file of runs, which Pillow decodes in Python, 4 MB a second
BYTES_PER_PIXEL = 8  # that decoding may take
LARGE_PIXELS = 50_000_000  # of a picture that may take all of the time limit
MIN_TIME_SHARE = 0.2  # of the time limit; a picture of few pixels should take milliseconds
BMP_RUNS = (1, 2)  # compressions of a BMP file: runs of bytes, and of half bytes
METADATA_COST = 100  # of a byte besides the pixels; Pillow reads it in Python
# Some decoders take a multiple of that, so their pictures may have fewer pixels.
MEMORY_FACTORS = {"WebP": 2, "AVIF": 2, "HEIC": 2, "JPEG 2000": 4}
SHARES = {1: "", 2: "half of ", 4: "a quarter of "}

CHUNK = struct.Struct(">I4s")  # of a PNG file: length of the content, and name
# Chunks of PNG files that are not compressed, and the pixels. Others can unpack to megabytes.
PLAIN_CHUNKS = frozenset(
    b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB sBIT bKGD pHYs tIME tEXt eXIf".split()
)


def check_header(data: File, max_pixels: int) -> None:
    """Refuse a picture whose header names a size that Loupe does not decode, or many runs.

    Raises:
        InvalidImage: With the code `image_too_large`, `image_too_small` or `image_too_costly`.
    """
    try:
        size = size_of(data)
        has_many_runs = len(data) > MAX_RUNS_BYTES and _is_bmp_of_runs(data)
    except struct.error:  # the decoder says that the file is truncated
        return
    if has_many_runs:
        raise too_costly(f"The BMP file has more than {MAX_RUNS_BYTES:,} bytes of runs.")
    if size is not None:
        check_size(*size, max_pixels, kind_of(data))


def check_size(width: int, height: int, max_pixels: int, kind: str | None) -> None:
    """Refuse a picture of a size that Loupe does not decode, as `check_header` does."""
    factor = MEMORY_FACTORS.get(kind or "", 1)
    limit = max_pixels // factor
    if width * height > limit:
        raise InvalidImage(
            f"The image has {width:,} × {height:,} = {width * height:,} pixels. The limit is "
            f"{limit:,} ({SHARES[factor]}LOUPE_MAX_IMAGE_PIXELS).",
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
    if next(islice(segments(data), MAX_SEGMENTS, None), None) is not None:
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


def kind_of(data: File) -> str | None:
    """Return the name of the file's format if Loupe reads it."""
    known = format_of(data)
    return known.name if known is not None and known.is_read else None


def estimated_bytes(data: File, max_pixels: int) -> int:
    """Return the memory that decoding may take besides the file."""
    try:
        size = size_of(data)
    except struct.error:
        return 0
    pixels = max_pixels if size is None else min(max_pixels, size[0] * size[1])
    kind = kind_of(data) or ""
    if kind == "JPEG" and not _is_progressive(data):  # is scaled down while it is decoded
        return 2 * pixels
    return BYTES_PER_PIXEL * MEMORY_FACTORS.get(kind, 1) * pixels


def time_share(data: File, max_pixels: int) -> float:
    """Return the share of the time for a large picture that decoding this one may take."""
    share = estimated_bytes(data, max_pixels) / (BYTES_PER_PIXEL * LARGE_PIXELS)
    return MIN_TIME_SHARE + (1 - MIN_TIME_SHARE) * min(1.0, share)


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
        length, chunk = CHUNK.unpack_from(data, start)
        if chunk not in PLAIN_CHUNKS:
            return False
        if chunk == b"IEND":
            return True
        start += 12 + length
    return False


def _is_tiny_jpeg(data: File) -> bool:
    for marker, start in islice(segments(data), TINY_SEGMENTS):
        if marker == PICTURE_LIST:
            return False
        if marker in START_OF_FRAME:
            height, width = struct.unpack_from(">HH", data, start + 1)
            if width * height > TINY_PIXELS:
                return False
        elif marker == START_OF_SCAN:
            return True
    return False


def _is_progressive(data: File) -> bool:
    return frame(data)[0] in PROGRESSIVE


def _has_one_scan(data: File) -> bool:
    """Return whether the first scan of a JPEG file that is not progressive has all components."""
    components = 0
    for marker, start in islice(segments(data), MAX_SEGMENTS):
        if marker in PROGRESSIVE or start + 5 >= len(data):
            return False
        if marker in START_OF_FRAME:
            components = data[start + 5]
        elif marker == START_OF_SCAN:
            return data[start] == components
    return False


def _is_bmp_of_runs(data: File) -> bool:
    if kind_of(data) != "BMP":
        return False
    header_bytes, compression = struct.unpack_from("<I12xI", data, 14)
    return header_bytes > 12 and compression in BMP_RUNS
