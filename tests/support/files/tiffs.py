"""TIFF files of kinds that Pillow does not write."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Order = Literal["<", ">"]

# Codes of field types, and how they are stored. Source: TIFF 6.0, section 2.
ASCII, SHORT, LONG = 2, 3, 4
CODES = {"u": 1, "i": 2, "f": 3}  # of sample formats
BLACK_IS_ZERO, WHITE_IS_ZERO, RGB, PALETTE, CMYK, LAB = 1, 0, 2, 3, 5, 8
UNCOMPRESSED, DEFLATE = 1, 8


def tiff(
    pixels: NDArray[np.generic],
    photometric: int = BLACK_IS_ZERO,
    *,
    order: Order = "<",
    bits: int | None = None,
    compression: int = UNCOMPRESSED,
    tile: int | None = None,
    planar: bool = False,
    tags: Mapping[int, tuple[int, ...] | bytes] | None = None,
) -> bytes:
    """Return a TIFF file of `(height, width)` or `(height, width, samples)` values.

    Args:
        pixels: The values, in any dtype.
        photometric: What the values mean.
        order: Of bytes: little-endian or big-endian.
        bits: Of a value, if fewer than its dtype has.
        compression: `UNCOMPRESSED` or `DEFLATE`.
        tile: Side of tiles, else one strip.
        planar: Store each sample on its own.
        tags: Further fields, as text or numbers.
    """
    stack = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    height, width, samples = stack.shape
    depth = bits or 8 * stack.itemsize
    parts = []
    for part in [stack[..., [band]] for band in range(samples)] if planar else [stack]:
        for piece in _pieces(part, tile):
            raw = _packed(piece, depth, order)
            parts.append(zlib.compress(raw) if compression == DEFLATE else raw)
    fields: dict[int, tuple[int, ...] | bytes] = {
        256: (width,),
        257: (height,),
        258: (depth,) * samples,
        259: (compression,),
        262: (photometric,),
        277: (samples,),
        284: (2 if planar else 1,),
        339: (CODES[stack.dtype.kind],) * samples,
    }
    offsets, counts = (324, 325) if tile else (273, 279)
    fields[counts] = tuple(map(len, parts))
    fields[offsets] = tuple(8 + sum(map(len, parts[:number])) for number in range(len(parts)))
    fields |= {322: (tile,), 323: (tile,)} if tile else {278: (height,)}
    return _file(b"".join(parts), fields | dict(tags or {}), order)


def _pieces(part: NDArray[np.generic], tile: int | None) -> Iterator[NDArray[np.generic]]:
    """Yield the whole part, or its tiles, which are filled up to their side."""
    if tile is None:
        yield part
        return
    height, width, samples = part.shape
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            full = np.zeros((tile, tile, samples), part.dtype)
            piece = part[top : top + tile, left : left + tile]
            full[: piece.shape[0], : piece.shape[1]] = piece
            yield full


def _packed(values: NDArray[np.generic], bits: int, order: Order) -> bytes:
    """Return rows of values with `bits` bits each; each row starts with a new byte."""
    if bits == 8 * values.itemsize:
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    big_endian = values.astype(f">u{values.itemsize}")
    rows = big_endian.view(np.uint8).reshape(len(values), -1, values.itemsize)
    bit_rows = np.unpackbits(rows, axis=2)[:, :, -bits:]
    return np.packbits(bit_rows.reshape(len(values), -1), axis=1).tobytes()


def _file(pixels: bytes, fields: Mapping[int, tuple[int, ...] | bytes], order: Order) -> bytes:
    """Return a file with the pixels first, then long values, then the directory."""
    values, entries = b"", b""
    for tag, value in sorted(fields.items()):
        if isinstance(value, bytes):
            kind, raw, count = ASCII, value, len(value)
        else:
            kind = LONG if max(value) > 0xFFFF else SHORT
            raw = struct.pack(f"{order}{len(value)}{'I' if kind == LONG else 'H'}", *value)
            count = len(value)
        if len(raw) > 4:
            raw, values = struct.pack(f"{order}I", 8 + len(pixels) + len(values)), values + raw
        entries += struct.pack(f"{order}HHI", tag, kind, count) + raw.ljust(4, b"\0")
    start = 8 + len(pixels) + len(values)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    directory = struct.pack(f"{order}H", len(fields)) + entries + bytes(4)
    return head + pixels + values + directory
