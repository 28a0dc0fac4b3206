"""Pictures for tests: valid ones, and files whose header lies."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from loupe.images.pixels.opening import load_heif
from loupe.images.spec import UInt8Array
from train.data.datasets import Dataset, Split

SIDE = 28  # pixels of the digits, and of the images that models take by default


def png(pixels: NDArray[np.generic], mode: str | None = None) -> bytes:
    """Encode a PNG file."""
    return encoded(Image.fromarray(pixels, mode) if mode else Image.fromarray(pixels), "PNG")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Encode a picture in a file format."""
    if kind == "HEIF":
        load_heif()
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def digits(count: int, seed: int = 0) -> UInt8Array:
    """Return random strokes on a dark ground: uint8 `(count, 28, 28)`, centred as MNIST's."""
    random = np.random.default_rng(seed)
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    images[:, 4:24, 4:24] = random.integers(0, 256, (count, 20, 20)) * (
        random.random((count, 20, 20)) < 0.3
    )
    totals, places = images.sum(axis=(1, 2)), np.arange(SIDE)
    middles = [images.sum(axis=axis) @ places / totals for axis in (2, 1)]
    shifts = np.round(14 - np.stack(middles, axis=1)).astype(int)
    for shift in np.unique(shifts, axis=0):
        chosen = (shifts == shift).all(axis=1)
        images[chosen] = np.roll(images[chosen], shift, axis=(1, 2))
    return images


def strokes(count: int) -> UInt8Array:
    """Return a picture of vertical strokes in a row, light on dark, each a symbol."""
    picture = np.zeros((100, 100 * count), np.uint8)
    for left in range(0, 100 * count, 100):
        picture[20:80, left + 40 : left + 60] = 255
    return picture


def with_frame(page: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Draw a dark rectangle near the edges of a page."""
    picture = Image.fromarray(page)
    margin, width = int(random.integers(2, picture.width // 16)), int(random.integers(1, 5))
    box = (margin, margin, picture.width - 1 - margin, picture.height - 1 - margin)
    ImageDraw.Draw(picture).rectangle(box, outline=int(random.integers(0, 80)), width=width)
    return np.asarray(picture)


def on_millimetre_paper(page: UInt8Array, random: np.random.Generator) -> UInt8Array:
    """Print squares on a square page; every fifth line is darker."""
    spacing, tone = int(random.integers(5, 9)), random.uniform(0.8, 0.93)
    lines = np.ones(len(page))
    lines[int(random.integers(spacing)) :: spacing] = tone
    lines[int(random.integers(5 * spacing)) :: 5 * spacing] = tone - 0.15
    paper = page.max() * np.minimum(lines, lines[:, np.newaxis])
    return np.asarray(np.minimum(page, paper), np.uint8)


def shapes() -> Dataset:
    """Return 48 images of three shapes: a horizontal bar, a vertical bar, a square."""
    random = np.random.default_rng(0)
    images = random.integers(0, 30, (48, SIDE, SIDE)).astype(np.uint8)
    labels = np.arange(48) % 3
    images[labels == 0, 12:16, 2:26] = 220
    images[labels == 1, 2:26, 12:16] = 220
    images[labels == 2, 8:20, 8:20] = 220
    return Dataset(
        name="shapes",
        class_names=("across", "upright", "square"),
        look="object",
        train=Split(images[:32], labels[:32]),
        test=Split(images[32:], labels[32:]),
    )


def photos(width: int = 24) -> Dataset:
    """Return 48 images of 32 pixels height in colour: reddish, greenish and bluish noise."""
    labels = np.arange(48) % 3
    images = np.random.default_rng(0).integers(0, 120, (48, 32, width, 3)).astype(np.uint8)
    images[np.arange(48), :, :, labels] += 100
    return Dataset(
        name="photos",
        class_names=("red", "green", "blue"),
        look="photo",
        train=Split(images[:32], labels[:32]),
        test=Split(images[32:], labels[32:]),
        fit="stretch",
    )


def sort_into_folders(folder: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Write pictures into one folder per class: noise on a dark ground, as 28 × 28 PNG files."""
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index, image in enumerate(digits(count, seed=seed + number)):
            (folder / name / f"{index}.png").write_bytes(png(image))
    return folder


def _packed_zeros(size: int) -> bytes:
    """Return what zlib makes of `size` zeros, from one compressed block that is repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(size % 2**20)) + packer.flush()
    checksum = struct.pack(">HH", size % 65521, 1)  # Adler-32 of zeros
    return b"\x78\xda" + block * (size // 2**20) + rest + checksum


def huge_png(side: int) -> bytes:
    """Return a valid black-and-white PNG of side × side pixels without holding them in memory."""
    values = _packed_zeros(side * (1 + (side + 7) // 8))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", values)
        + _chunk(b"IEND", b"")
    )


def without_chunk(kind: bytes, data: bytes) -> bytes:
    """Return a PNG file without its chunk of a kind."""
    start = data.index(kind) - 4
    (length,) = struct.unpack_from(">I", data, start)
    return data[:start] + data[start + 12 + length :]


def long_gif(frames: int) -> bytes:
    """Return a GIF of two-pixel frames: the first frame of a real file, repeated."""
    still = encoded(Image.new("P", (2, 2)), "GIF")
    start = still.index(b",")  # the image descriptor, after the header and the palette
    return still[:start] + still[start:-1] * frames + still[-1:]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def digit_sheet() -> UInt8Array:
    """Return dark ink on light paper, uint8 `(120, 90)`: a hook, off the middle."""
    sheet = np.full((120, 90), 255, np.uint8)
    sheet[20:90, 50:58] = 0
    sheet[82:90, 30:58] = 60
    return sheet
