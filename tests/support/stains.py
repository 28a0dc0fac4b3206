"""Pages and boards without writing that are not clean: wiped, stained, compressed."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from loupe.images.spec import UInt8Array
from tests.support.pictures import encoded
from train.evaluate.robustness.handwriting import (
    Coverage,
    Grey,
    Random,
    as_bytes,
    chalk,
    photographed,
    written,
)

SIDE = 200  # pixels


def wiped(random: Random) -> Grey:
    """Wipe chalk off a board: broad rough bands, with streaks along them."""
    board = chalk(np.zeros((SIDE, SIDE)), random)
    for _ in range(random.integers(1, 5)):
        band = _band(random) * _streaks(random)
        board += random.uniform(15, 90) * band
    return board


def dusty(random: Random) -> Grey:
    """Leave clouds of chalk on a board."""
    board = chalk(np.zeros((SIDE, SIDE)), random)
    for _ in range(random.integers(1, 4)):
        board += random.uniform(15, 90) * _blot(random, random.uniform(4, 16))
    return board


def splashed(random: Random) -> Grey:
    """Wet spots of a board, which are darker."""
    board = chalk(np.zeros((SIDE, SIDE)), random) + random.uniform(20, 60)
    for _ in range(random.integers(1, 5)):
        board *= 1 - random.uniform(0.15, 0.5) * _blot(random, random.uniform(1, 6))
    return board


def stained(random: Random) -> Grey:
    """Spill tea on paper: blots that are a little darker."""
    paper = written(np.zeros((SIDE, SIDE)), random)
    for _ in range(random.integers(1, 4)):
        paper *= 1 - random.uniform(0.05, 0.3) * _blot(random, random.uniform(1, 8))
    return paper + random.normal(0, random.uniform(0, 6), paper.shape)


def smudged(random: Random) -> Grey:
    """Rub pencil over paper with a finger."""
    paper = written(np.zeros((SIDE, SIDE)), random)
    for _ in range(random.integers(1, 4)):
        paper *= 1 - random.uniform(0.08, 0.3) * _band(random) * _streaks(random)
    return paper + random.normal(0, random.uniform(0, 6), paper.shape)


def compressed(random: Random) -> Grey:
    """Save the photo of a page as a small JPEG, which makes blocks of the shading."""
    page = as_bytes(photographed(np.zeros((SIDE, SIDE)), random))
    file = io.BytesIO(encoded(Image.fromarray(page), "JPEG", quality=10))
    return np.asarray(Image.open(file), float)


def _blot(random: Random, softness: float) -> Coverage:
    """Return a blot of uneven outline, 0..1."""
    middle = random.uniform(0.2, 0.8, 2) * SIDE
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    radius = random.uniform(0.08, 0.3) * SIDE * np.ones(60)
    for wave in range(2, 6):
        radius *= 1 + random.normal(0, 0.25 / wave) * np.cos(wave * angles + random.uniform(0, 6))
    points = middle + radius[:, np.newaxis] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _drawn(lambda draw: draw.polygon(points.ravel().tolist(), fill=255), softness)


def _band(random: Random) -> Coverage:
    """Return the path of a sponge, 0..1: a broad curve with soft ends."""
    start, middle, stop = random.uniform(0, SIDE, (3, 2))
    times = np.linspace(0, 1, 30)[:, np.newaxis]
    curve = (1 - times) ** 2 * start + 2 * times * (1 - times) * middle + times**2 * stop
    width = round(random.uniform(0.08, 0.3) * SIDE)
    return _drawn(
        lambda draw: draw.line(curve.ravel().tolist(), fill=255, width=width, joint="curve"),
        random.uniform(3, 12),
    )


def _streaks(random: Random) -> Coverage:
    """Return what a sponge leaves: streaks of a few pixels in one direction, 0..1."""
    angle = random.uniform(0, 180)
    noise = Image.fromarray(as_bytes(random.normal(128, 90, (2 * SIDE, SIDE // 8))))
    lines = noise.resize((2 * SIDE, 2 * SIDE), Image.Resampling.BICUBIC)
    turned = np.asarray(lines.rotate(angle, Image.Resampling.BICUBIC), float) / 255
    middle = turned[SIDE // 2 : SIDE // 2 + SIDE, SIDE // 2 : SIDE // 2 + SIDE]
    return np.asarray(1 - random.uniform(0.2, 0.8) * middle)


def _drawn(shape: Callable[[ImageDraw.ImageDraw], None], softness: float) -> Coverage:
    picture = Image.new("L", (SIDE, SIDE))
    shape(ImageDraw.Draw(picture))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(softness)), float) / 255


STAINS: dict[str, Callable[[Random], Grey]] = {
    "wiped": wiped,
    "dusty": dusty,
    "splashed": splashed,
    "stained": stained,
    "smudged": smudged,
    "compressed": compressed,
}


def draw_stains(kind: str, random: Random) -> UInt8Array:
    """Return a page of a kind without writing."""
    return as_bytes(STAINS[kind](random))
