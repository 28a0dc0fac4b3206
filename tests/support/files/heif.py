"""HEIC files of several tiles, as phones write them. Source: ISO/IEC 14496-12 and 23008-12."""

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from loupe.images.spec import UInt8Array
from tests.support.pictures import encoded

CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}  # and their bytes before the first box


def grid(picture: UInt8Array, side: int) -> bytes:
    """Return a picture, `(height, width, 3)`, as tiles; those at the edges are filled up."""
    height, width, _ = picture.shape
    rows, columns = -(-height // side), -(-width // side)
    full = np.zeros((rows * side, columns * side, 3), np.uint8)
    full[:height, :width] = picture
    tiles = [
        encoded(Image.fromarray(full[top : top + side, left : left + side]), "HEIF", quality=95)
        for top in range(0, rows * side, side)
        for left in range(0, columns * side, side)
    ]
    boxes = [dict(_boxes(tile)) for tile in tiles]
    pixels = [each[b"mdat"] for each in boxes]
    items, last = range(1, len(tiles) + 1), len(tiles) + 1
    description = struct.pack(">4BHH", 0, 0, rows - 1, columns - 1, width, height)
    kinds = [b"hvc1"] * len(tiles) + [b"grid"]
    properties = [
        _box(b"hvcC", boxes[0][b"hvcC"]),
        _full(b"ispe", struct.pack(">II", side, side)),
        _full(b"ispe", struct.pack(">II", width, height)),
    ]
    used = [(item, (0x81, 2)) for item in items] + [(last, (3,))]
    head = _box(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    length = 0
    for _ in range(2):  # the offsets of the tiles follow from the length of what is before them
        entries = [
            _full(b"infe", struct.pack(">HH", item, 0) + kind + b"\0", version=2)
            for item, kind in enumerate(kinds, 1)
        ]
        meta = (
            _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
            _full(b"pitm", struct.pack(">H", last)),
            _full(b"iinf", struct.pack(">H", last) + b"".join(entries)),
            _full(b"iref", _box(b"dimg", struct.pack(f">{last + 1}H", last, len(tiles), *items))),
            _box(b"iprp", _box(b"ipco", b"".join(properties)) + _associations(used)),
            _box(b"idat", description),
            _locations(pixels, length + 8, len(description)),
        )
        start = head + _full(b"meta", b"".join(meta))
        length = len(start)
    return start + _box(b"mdat", b"".join(pixels))


def _associations(used: Sequence[tuple[int, tuple[int, ...]]]) -> bytes:
    entries = (struct.pack(f">HB{len(each)}B", item, len(each), *each) for item, each in used)
    return _full(b"ipma", struct.pack(">I", len(used)) + b"".join(entries))


def _locations(pixels: Sequence[bytes], start: int, description: int) -> bytes:
    """Return where the tiles are in the file, and the grid in `idat`."""
    entries = b""
    for item, each in enumerate(pixels, 1):
        entries += struct.pack(">HHHHII", item, 0, 0, 1, start, len(each))
        start += len(each)
    entries += struct.pack(">HHHHII", len(pixels) + 1, 1, 0, 1, 0, description)
    return _full(b"iloc", struct.pack(">BBH", 0x44, 0, len(pixels) + 1) + entries, version=1)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full(kind: bytes, content: bytes, version: int = 0) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]) + content)


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the boxes in a file, and in the containers among them."""
    start = 0
    while start + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, start)
        content = data[start + 8 : start + size]
        yield kind, content
        if kind in CONTAINERS:
            yield from _boxes(content[CONTAINERS[kind] :])
        start += size
