"""Pictures of digits as people make them: on paper, in frames, in shadow, with many pens.

A digit is its coverage: float `(side, side)`, 0 = paper, 1 = ink. A kind in `KINDS` turns it into a
picture, uint8 `(height, width)`, 255 = white.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from loupe.images.spec import UInt8Array

Coverage: TypeAlias = NDArray[np.floating]
Grey: TypeAlias = NDArray[np.floating]
"""Brightness, `(height, width)`, 0 = black, 255 = white."""
Random: TypeAlias = np.random.Generator

SIDE = 200  # pixels of a sheet


def place(digit: UInt8Array, random: Random, side: int = SIDE) -> Coverage:
    """Enlarge a digit, uint8 with light ink, to 35–75 % of a square sheet, at a random position."""
    box = _enlarged(digit, round(side * random.uniform(0.35, 0.75)))
    sheet = np.zeros((side, side))
    top = random.integers(side // 20, side - side // 20 - box.shape[0])
    left = random.integers(side // 20, side - side // 20 - box.shape[1])
    sheet[top : top + box.shape[0], left : left + box.shape[1]] = box
    return sheet


def _enlarged(digit: UInt8Array, size: int) -> Coverage:
    """Crop to the ink, and scale the longer side to `size` pixels with sharp edges."""
    rows, columns = np.nonzero(digit.any(axis=1))[0], np.nonzero(digit.any(axis=0))[0]
    ink = Image.fromarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = size / max(ink.size)
    ink = ink.resize(
        (max(1, round(ink.width * scale)), max(1, round(ink.height * scale))),
        Image.Resampling.BICUBIC,
    )
    edges: Coverage = np.clip((np.asarray(ink) / 255 - 0.35) / 0.3, 0, 1)
    return edges


def written(coverage: Coverage, random: Random) -> Grey:
    """Put dark ink on light paper."""
    paper, ink = random.uniform(215, 255), random.uniform(10, 80)
    return paper + (ink - paper) * coverage


# Disturbances


def plain(coverage: Coverage, random: Random) -> Grey:
    """Write on clean paper."""
    return written(coverage, random)


def framed(coverage: Coverage, random: Random) -> Grey:
    """Draw a thin rectangle around the digit; it may be tilted a little, or lie on the edge."""
    grey = Image.fromarray(written(coverage, random).astype(np.uint8))
    side = grey.width
    margin = random.choice([0, 1, *range(2, side // 16)])
    width = int(random.integers(1, 5))
    tilt = random.uniform(-0.015, 0.015) * side * random.integers(0, 2)
    low, high = margin, side - 1 - margin
    corners = [(low, low + tilt), (high - tilt, low), (high, high - tilt), (low + tilt, high)]
    draw = ImageDraw.Draw(grey)
    draw.line([*corners, corners[0], corners[1]], fill=int(random.integers(0, 150)), width=width)
    return np.asarray(grey, float)


def shaded_30(coverage: Coverage, random: Random) -> Grey:
    """Darken the paper by up to 30 % towards one side."""
    return written(coverage, random) * _gradient(coverage.shape, random, 0.3)


def shaded_60(coverage: Coverage, random: Random) -> Grey:
    """Darken the paper by up to 60 % towards one side."""
    return written(coverage, random) * _gradient(coverage.shape, random, 0.6)


def shadow_edge(coverage: Coverage, random: Random) -> Grey:
    """Darken one side of a straight, more or less sharp edge by 30–60 %."""
    distance = _distance(coverage.shape, random, random.uniform(-0.3, 0.3))
    softness = random.uniform(0.5, 8) / coverage.shape[0]
    shadow = 1 / (1 + np.exp(-np.clip(distance / softness, -50, 50)))
    brightness: Grey = 1 - random.uniform(0.3, 0.6) * shadow
    return written(coverage, random) * brightness


def ruled(coverage: Coverage, random: Random) -> Grey:
    """Write on ruled paper."""
    return _with_lines(written(coverage, random), random, ("across",))


def squared(coverage: Coverage, random: Random) -> Grey:
    """Write on squared paper."""
    return _with_lines(written(coverage, random), random, ("across", "down"))


def specked(coverage: Coverage, random: Random) -> Grey:
    """Add 10–40 dark dots of 1–5 pixels."""
    grey = Image.fromarray(written(coverage, random).astype(np.uint8))
    draw = ImageDraw.Draw(grey)
    for _ in range(random.integers(10, 41)):
        x, y = random.uniform(0, grey.width, 2)
        radius = random.uniform(0.5, 2.5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), int(random.integers(0, 140)))
    return np.asarray(grey, float)


def grainy(coverage: Coverage, random: Random) -> Grey:
    """Add the noise of a dark photo."""
    return written(coverage, random) + random.normal(0, random.uniform(10, 30), coverage.shape)


def on_table(coverage: Coverage, random: Random) -> Grey:
    """Put the sheet, turned and a little skewed, on a dark table with some texture."""
    side = coverage.shape[0]
    sheet = Image.fromarray(written(coverage, random).astype(np.uint8))
    sheet = sheet.resize((side, round(side * random.uniform(1, 1.3))))
    table = np.asarray(
        Image.fromarray(random.normal(random.uniform(20, 90), 25, (40, 40)).clip(0, 255))
        .convert("L")
        .resize((int(1.5 * side), int(1.6 * side)), Image.Resampling.BICUBIC)
    )
    mask = Image.new("L", sheet.size, 255)
    angle = random.uniform(-20, 20)
    scale = random.uniform(0.6, 0.95)
    new = (round(sheet.width * scale), round(sheet.height * scale))
    turned = sheet.resize(new).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    mask = mask.resize(new).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    picture = Image.fromarray(table).resize((round(1.55 * side), round(1.6 * side)))
    spare = (max(1, picture.width - turned.width), max(1, picture.height - turned.height))
    where = (int(random.integers(0, spare[0])), int(random.integers(0, spare[1])))
    picture.paste(turned, where, mask)
    return np.asarray(picture, float)


def sticker(coverage: Coverage, random: Random) -> Grey:
    """Put a light label with round corners on a plain ground that is darker or lighter."""
    side = coverage.shape[0]
    sheet = Image.fromarray(written(coverage, random).astype(np.uint8))
    picture = Image.new("L", (round(1.4 * side), round(1.3 * side)), int(random.integers(20, 150)))
    mask = Image.new("L", sheet.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), side // 8, 255)
    picture.paste(sheet, (int(random.integers(0, side * 0.4)), int(side * 0.15)), mask)
    return np.asarray(picture, float)


def tight(coverage: Coverage, random: Random) -> Grey:
    """Cut the paper where the ink ends."""
    rows = np.nonzero((coverage > 0.5).any(axis=1))[0]
    columns = np.nonzero((coverage > 0.5).any(axis=0))[0]
    grey = written(coverage, random)
    return grey[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def screenshot(coverage: Coverage, random: Random) -> Grey:
    """Show a paint program: a bar with buttons above a canvas, and a scroll bar beside it."""
    side = coverage.shape[0]
    window = Image.new("L", (side + 14, side + 30), int(random.integers(190, 240)))
    window.paste(Image.fromarray(np.uint8(255 * (1 - coverage))), (0, 30))
    draw = ImageDraw.Draw(window)
    for left in range(6, side - 20, 24):
        draw.rectangle((left, 8, left + 14, 22), outline=90, fill=int(random.integers(120, 250)))
    draw.rectangle((side + 3, 40, side + 10, 40 + side // 3), fill=140)
    return np.asarray(window, float)


def photographed(coverage: Coverage, random: Random) -> Grey:
    """Combine shading, blur and grain, as a phone does in a room."""
    grey = written(coverage, random) * _gradient(coverage.shape, random, random.uniform(0.1, 0.5))
    blurred = Image.fromarray(grey.astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(random.uniform(0.5, 2))
    )
    return np.asarray(blurred, float) + random.normal(0, random.uniform(2, 10), grey.shape)


# Pens


def one_pixel(coverage: Coverage, random: Random) -> Grey:
    """Draw lines of one pixel."""
    return written(thinned(coverage > 0.5), random)


def ballpoint(coverage: Coverage, random: Random) -> Grey:
    """Draw thin lines, not quite black."""
    line = _pen(coverage, random.uniform(1.5, 3.5))
    return written(line * random.uniform(0.6, 0.9), random)


def pencil(coverage: Coverage, random: Random) -> Grey:
    """Draw faint, thin and rough strokes on grainy paper."""
    line = _pen(coverage, random.uniform(2, 4)) * random.uniform(0.7, 1, coverage.shape)
    grey = random.uniform(200, 245) - random.uniform(35, 80) * line
    return grey + random.normal(0, random.uniform(1, 5), grey.shape)


def marker(coverage: Coverage, random: Random) -> Grey:
    """Draw thick lines."""
    return written(_pen(coverage, coverage.shape[0] * random.uniform(0.04, 0.07)), random)


def chalk(coverage: Coverage, random: Random) -> Grey:
    """Draw rough light strokes on an uneven dark board."""
    board = random.uniform(20, 90) * _gradient(coverage.shape, random, 0.4)
    line = _pen(coverage, random.uniform(4, 9))
    rough = np.clip(line * random.normal(0.8, 0.25, board.shape), 0, 1)
    return board + (random.uniform(180, 250) - board) * rough + random.normal(0, 6, board.shape)


def tiny(coverage: Coverage, random: Random) -> Grey:
    """Shrink to 20 pixels in all."""
    grey = Image.fromarray(_cut(written(coverage, random), coverage, random).astype(np.uint8))
    return np.asarray(grey.resize((20, 20), Image.Resampling.LANCZOS), float)


def small_28(coverage: Coverage, random: Random) -> Grey:
    """Shrink to 28 pixels with light ink, not centred."""
    grey = Image.fromarray(_cut(255 - written(coverage, random), coverage, random).astype(np.uint8))
    return np.asarray(grey.resize((28, 28), Image.Resampling.BOX), float)


# Nothing to read, or too much


def blank(kind: str, random: Random, side: int = SIDE) -> UInt8Array:
    """Return a picture of a kind without a digit."""
    return as_bytes(KINDS[kind](np.zeros((side, side)), random))


def several(digits: UInt8Array, random: Random, side: int = SIDE) -> UInt8Array:
    """Write digits, uint8 `(n, 28, 28)`, in a row from left to right."""
    size = side * random.uniform(0.3, 0.5)
    boxes = [_enlarged(digit, round(size * random.uniform(0.85, 1.1))) for digit in digits]
    gap = [round(size * random.uniform(0.15, 0.6)) for _ in boxes]
    width = sum(box.shape[1] for box in boxes) + sum(gap) + round(size * 0.5)
    sheet = np.zeros((round(size * random.uniform(1.5, 2.5)), width))
    left = round(size * 0.25)
    for box, space in zip(boxes, gap, strict=True):
        top = round((sheet.shape[0] - box.shape[0]) / 2 + random.uniform(-0.1, 0.1) * size)
        sheet[top : top + box.shape[0], left : left + box.shape[1]] = box
        left += box.shape[1] + space
    return as_bytes(written(sheet, random))


def as_bytes(grey: Grey) -> UInt8Array:
    """Round brightness to uint8, within 0..255."""
    return np.clip(np.round(grey), 0, 255).astype(np.uint8)


def draw(kind: str, digit: UInt8Array, random: Random, side: int = SIDE) -> UInt8Array:
    """Return a digit, uint8 with light ink, as a picture of a kind."""
    return as_bytes(KINDS[kind](place(digit, random, side), random))


def _gradient(shape: tuple[int, ...], random: Random, loss: float) -> Grey:
    """Return brightness that falls from 1 by a fraction across the sheet, in any direction."""
    distance = _distance(shape, random, 0)
    brightness: Grey = 1 - loss * (distance - distance.min()) / np.ptp(distance)
    return brightness


def _distance(shape: tuple[int, ...], random: Random, offset: float) -> Grey:
    """Return the signed distance to a line in any direction, in sides of the sheet."""
    angle = random.uniform(0, 2 * np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape) - 0.5
    distance: Grey = np.cos(angle) * x + np.sin(angle) * y - offset
    return distance


def _with_lines(grey: Grey, random: Random, directions: tuple[str, ...]) -> Grey:
    """Print lines over the whole sheet; a scan tilts them a little."""
    side = grey.shape[0]
    spacing, width = random.uniform(0.1, 0.2) * side, random.uniform(0.8, 2.2)
    tone, slope = random.uniform(0.35, 0.85), random.uniform(-0.02, 0.02) * random.integers(0, 2)
    y, x = np.mgrid[:side, :side].astype(float)
    offset = random.uniform(0, spacing)
    for across in directions:
        position = y + slope * x if across == "across" else x - slope * y
        away = np.abs((position - offset + spacing / 2) % spacing - spacing / 2)
        covered = np.clip(width / 2 + 0.5 - away, 0, 1)
        grey = np.minimum(grey, grey.max() * (1 - (1 - tone) * covered))
    return grey


def _cut(grey: Grey, coverage: Coverage, random: Random) -> Grey:
    """Cut a square around the ink, with margins of 10–25 % of the digit."""
    rows = np.nonzero((coverage > 0.5).any(axis=1))[0]
    columns = np.nonzero((coverage > 0.5).any(axis=0))[0]
    size = max(np.ptp(rows), np.ptp(columns))
    side = round(size * random.uniform(1.2, 1.5))
    spare = (side - size) / 2
    middle = (
        rows.mean() + random.uniform(-spare, spare) / 2,
        columns.mean() + random.uniform(-spare, spare) / 2,
    )
    padded = np.pad(grey, side, mode="edge")
    top, left = (round(centre + side - side / 2) for centre in middle)
    return padded[top : top + side, left : left + side]


def _pen(coverage: Coverage, width: float) -> Coverage:
    """Draw along the middle of the strokes with a pen of a width in pixels."""
    line = Image.fromarray(np.uint8(255 * thinned(coverage > 0.5)))
    blurred = np.asarray(line.filter(ImageFilter.GaussianBlur(width / 2)), float)
    strokes: Coverage = np.clip(
        blurred / (255 / (width / 2 * np.sqrt(2 * np.pi))) / 0.6 - 0.5, 0, 1
    )
    return strokes


def thinned(mask: NDArray[np.bool_]) -> Coverage:
    """Thin strokes to one pixel. Source: Zhang and Suen, CACM 27(3), 1984."""
    thin = np.pad(mask, 1).astype(np.uint8)
    changed = True
    while changed:
        changed = False
        for corner in (True, False):
            drop = _removable(thin, corner)
            thin[drop] = 0
            changed |= bool(drop.any())
    return thin[1:-1, 1:-1].astype(float)


def _removable(thin: UInt8Array, corner: bool) -> NDArray[np.bool_]:
    """Return which pixels a step of the thinning removes: those at the lower right, or the rest."""
    shifts = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    ring = [np.roll(thin, shift, axis=(0, 1)) for shift in shifts]  # clockwise from above
    north, _, east, _, south, _, west, _ = ring
    neighbours = np.sum(ring, axis=0)
    rises = np.sum([a < b for a, b in zip(ring, [*ring[1:], north], strict=True)], axis=0)
    if corner:
        first, second = north * east * south, east * south * west
    else:
        first, second = north * east * west, north * south * west
    removable = (thin > 0) & (rises == 1) & (first == 0) & (second == 0)
    return np.asarray(removable & (neighbours >= 2) & (neighbours <= 6))


KINDS: dict[str, Callable[[Coverage, Random], Grey]] = {
    "plain": plain,
    "frame": framed,
    "shading 30 %": shaded_30,
    "shading 60 %": shaded_60,
    "shadow edge": shadow_edge,
    "ruled": ruled,
    "squared": squared,
    "specks": specked,
    "grain": grainy,
    "table": on_table,
    "sticker": sticker,
    "tight": tight,
    "screenshot": screenshot,
    "photo": photographed,
    "one pixel": one_pixel,
    "ballpoint": ballpoint,
    "pencil": pencil,
    "marker": marker,
    "chalk": chalk,
    "20 pixels": tiny,
    "28 pixels": small_28,
}
