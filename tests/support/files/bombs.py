"""Small files that cost much to decode."""

import struct
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.pictures import encoded


@cache
def jpeg_with_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG of side × side grey pixels whose shortest scan is repeated."""
    data = encoded(Image.new("L", (side, side), 128), "JPEG", progressive=True)
    starts = [*_find_scans(data), len(data) - 2]
    refinement = data[starts[-2] : starts[-1]]
    return data[: starts[-1]] + refinement * scans + data[starts[-1] :]


@cache
def jpeg_with_separate_scans(side: int, scans: int) -> bytes:
    """Return a JPEG file, not progressive, with a scan per colour; the first is repeated."""
    grey = encoded(Image.new("L", (side, side), 128), "JPEG")
    frame, scan = grey.index(b"\xff\xc0"), grey.index(b"\xff\xda")
    size = grey[frame + 4 : frame + 9]
    colours = b"".join(bytes((number, 0x11, 0)) for number in (1, 2, 3))
    header = b"\xff\xc0" + struct.pack(">H", 17) + size + b"\3" + colours
    after_frame = frame + 2 + int.from_bytes(grey[frame + 2 : frame + 4], "big")
    pixels = grey[scan + 10 : -2]
    first, *others = (
        b"\xff\xda\0\x08\1" + bytes((number, 0, 0, 63, 0)) + pixels for number in (1, 2, 3)
    )
    parts = [grey[:frame], header, grey[after_frame:scan], first * scans, *others, grey[-2:]]
    return b"".join(parts)


def jpeg_with_segments(segment: bytes, count: int) -> bytes:
    """Return a JPEG file with a segment repeated at its start."""
    data = encoded(Image.new("L", (8, 8)), "JPEG")
    return data[:2] + segment * count + data[2:]


def png_with_chunks(count: int) -> bytes:
    """Return a PNG file of 64 × 64 pixels with empty chunks in front of them."""
    data = encoded(Image.new("L", (64, 64)), "PNG")
    kind = b"tEXt"
    chunk = struct.pack(">I", 0) + kind + struct.pack(">I", zlib.crc32(kind))
    end = data.index(b"IDAT") - 4
    return data[:end] + chunk * count + data[end:]


def flat_png(side: int, mode: str) -> bytes:
    """Return a PNG file of side × side pixels of one colour; of few bytes."""
    if mode == "I;16":
        return encoded(Image.fromarray(np.zeros((side, side), np.uint16)), "PNG")
    return encoded(Image.new(mode, (side, side)), "PNG")


def flat_webp(width: int, height: int) -> bytes:
    """Return a lossless WebP file of one colour; of some 30 bytes."""
    small = bytearray(encoded(Image.new("RGB", (64, 64)), "WEBP", lossless=True))
    struct.pack_into("<I", small, 21, (width - 1) | (height - 1) << 14)
    return bytes(small)


def wide_tiff(side: int) -> bytes:
    """Return a TIFF file of four times 16 bits in one strip: 12 bytes per pixel in Pillow."""
    pixels = zlib.compress(bytes(8 * side * side), 1)
    values = struct.pack("<8H", *[16] * 4, *[1] * 4)  # bits and formats of the samples
    start = 8 + len(values) + len(pixels)
    entries = [(256, 1, side), (257, 1, side), (258, 4, 8), (259, 1, 8), (262, 1, 2)]
    entries += [(273, 1, 8 + len(values)), (277, 1, 4), (278, 1, side), (279, 1, len(pixels))]
    entries += [(338, 1, 0), (339, 4, 16)]
    directory = struct.pack("<H", len(entries))
    for tag, count, value in entries:
        directory += struct.pack("<HHII", tag, 4 if count == 1 else 3, count, value)
    return struct.pack("<2sHI", b"II", 42, start) + values + pixels + directory + bytes(4)


@cache
def bmp_of_runs(side: int) -> bytes:
    """Return a compressed BMP file whose runs have one pixel each; Pillow decodes it in Python."""
    pixels = (b"\x01\x05" * side + b"\0\0") * side + b"\0\x01"
    palette = bytes(4 * 256)
    start = 14 + 40 + len(palette)
    header = struct.pack("<2sIII", b"BM", start + len(pixels), 0, start)
    info = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(pixels), 0, 0, 256, 0)
    return header + info + palette + pixels


def _find_scans(data: bytes) -> Iterator[int]:
    """Yield where the scans of a JPEG file start, and the tables in front of each."""
    position, tables = 2, None
    while position < len(data) - 2:
        marker, length = data[position + 1], struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xDA:
            yield position if tables is None else tables
            tables = None
        elif marker == 0xC4 and tables is None:
            tables = position
        position += 2 + length
        if marker == 0xDA:
            while data[position] != 0xFF or data[position + 1] in (0, *range(0xD0, 0xD8)):
                position += 1


def claim(table: Path, number: int, claimed: int) -> None:
    """Replace a number in the metadata of a Parquet file."""
    data = table.read_bytes()
    (length,) = struct.unpack("<I", data[-8:-4])
    footer = data[-8 - length : -8].replace(_varint(number), _varint(claimed))
    table.write_bytes(data[: -8 - length] + footer + struct.pack("<I", len(footer)) + b"PAR1")


def _varint(value: int) -> bytes:
    value <<= 1
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])
