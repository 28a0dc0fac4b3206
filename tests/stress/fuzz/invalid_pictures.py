"""Damaged pictures, and small files that take long to decode."""

import io
from collections.abc import Sequence
from functools import cache
from random import Random

from PIL import Image

from bench.inputs import PNG
from tests.stress.fuzz.invalid_bodies import check_refusal, damage
from tests.stress.fuzz.requests import FORM, Factory, Reference, Request, encode_form, post
from tests.support.pictures import encoded

FORMATS = (
    *("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"),
    *("AVIF", "HEIF", "JPEG2000", "ICO", "PPM"),
)
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "I;16", "I", "F", "CMYK")
MAX_SCANS = 50  # 0.1 s of decoding


def damaged_picture(random: Random, reference: Reference) -> Request:
    """Send a picture file of any format, with none to three faults."""
    file = _picture(random.choice(FORMATS), random.choice(MODES), random.randint(0, 3))
    for _ in range(random.randint(0, 3)):
        file = damage(random, file)
    if random.random() < 0.7:
        return post("/predict", PNG, file, check_refusal)
    form = encode_form("images", [file, reference.pngs[0]])
    return post("/predict_batch", FORM, form, check_refusal)


@cache
def _picture(kind: str, mode: str, seed: int) -> bytes:
    """Encode random pixels, as a PNG if the format does not support the mode."""
    random = Random(seed)
    size = (random.randint(2, 90), random.randint(2, 90))
    base = Image.frombytes("RGB", size, random.randbytes(size[0] * size[1] * 3))
    steps = ("L", "I", mode) if mode in ("I;16", "F") else (mode,)
    image = base
    for step in steps:
        image = image.convert(step)
    exif = Image.Exif()
    exif[0x0112] = random.randint(0, 9)  # orientation, not always a valid one
    try:
        return encoded(image, kind, exif=exif.tobytes())
    except (OSError, ValueError, KeyError):
        return encoded(base, "PNG", exif=exif)


def costly_picture(random: Random, reference: Reference) -> Request:
    """Send a small file that takes long to decode: many scans, segments, chunks or pixels."""
    kind = random.choice(["scans", "segments", "EXIF", "chunks", "pixels"])
    file = _costly_picture(kind, random.choice([2, 20, 2000]))
    if random.random() < 0.5:
        return post("/predict", PNG, file, check_refusal)
    return post("/predict_batch", FORM, encode_form("images", [file] * 2), check_refusal)


@cache
def _costly_picture(kind: str, count: int) -> bytes:
    image = Image.frombytes("L", (64, 64), Random(0).randbytes(64 * 64)).resize((300, 300))
    file = io.BytesIO()
    if kind in ("chunks", "pixels"):
        flat = Image.new("L", (count, count), 9)
        (flat if kind == "pixels" else image).save(file, "PNG")
        start, chunk = 33, b"\0\0\0\0tEXt\xbf\xd8\x05\x2e"  # after the header
        added = chunk * count if kind == "chunks" else b""
    else:
        image.save(file, "JPEG", progressive=True)
        scans = file.getvalue()[file.getvalue().index(b"\xff\xda") : -2]
        start, added = {
            "scans": (-2, scans * min(count, MAX_SCANS)),
            "segments": (2, b"\xff\xe5\0\2" * count),
            "EXIF": (2, b"\xff\xe1\0\x10Exif\0\0MM\0\x2a\0\0\0\x08" * count),
        }[kind]
    data = file.getvalue()
    return data[:start] + added + data[start:]


INVALID_PICTURES: Sequence[Factory] = (damaged_picture, costly_picture)
