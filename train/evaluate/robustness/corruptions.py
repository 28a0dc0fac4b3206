"""Images changed as in MNIST-C, one function per kind.

Source of the kinds: Mu and Gilmer, "MNIST-C: A Robustness Benchmark for Computer Vision", 2019,
https://arxiv.org/abs/1906.02337. The functions are our own, and take images of any size.

An image is float `(height, width)` or `(height, width, 3)`, 0..1; results may exceed that.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from loupe.images.spec import UInt8Array

Pixels: TypeAlias = NDArray[np.floating]
Random: TypeAlias = np.random.Generator
Line: TypeAlias = list[tuple[float, float]]

PHOTONS = 12  # of a white pixel, with shot noise
STRUCK = 0.12  # share of pixels that impulse noise makes black or white


def corrupt(kind: str, image: UInt8Array, random: Random) -> UInt8Array:
    """Return an image, uint8 `(height, width[, 3])`, changed by a kind of `CORRUPTIONS`."""
    changed = CORRUPTIONS[kind](image / 255, random)
    return np.asarray(np.clip(changed * 255, 0, 255).round(), np.uint8)


def shot_noise(image: Pixels, random: Random) -> Pixels:
    """Count few photons at each pixel."""
    return random.poisson(image * PHOTONS) / PHOTONS


def impulse_noise(image: Pixels, random: Random) -> Pixels:
    """Make some pixels black, and as many white."""
    chance = _per_pixel(random.random(image.shape[:2]), image)
    return np.where(chance < STRUCK / 2, 0, np.where(chance > 1 - STRUCK / 2, 1, image))


def glass_blur(image: Pixels, random: Random) -> Pixels:
    """Exchange pixels with neighbours, and blur."""
    height, width = image.shape[:2]
    reach = max(1, round(0.04 * width))
    rows, columns = np.indices((height, width))
    rows = (rows + random.integers(-reach, reach + 1, rows.shape)).clip(0, height - 1)
    columns = (columns + random.integers(-reach, reach + 1, rows.shape)).clip(0, width - 1)
    return _filtered(image[rows, columns], ImageFilter.GaussianBlur(0.02 * width))


def motion_blur(image: Pixels, random: Random) -> Pixels:
    """Average copies along a line of a fifth of the image, in any direction."""
    angle, length = random.uniform(0, np.pi), 0.2 * image.shape[1]
    offsets = np.linspace(-length / 2, length / 2, 9)
    moved = [_moved(image, np.cos(angle) * each, np.sin(angle) * each) for each in offsets]
    return np.asarray(np.mean(moved, axis=0))


def shear(image: Pixels, random: Random) -> Pixels:
    """Slant to either side."""
    return _transformed(image, np.array([[1, _either(random, 0.3, 0.5)], [0, 1]]))


def scale(image: Pixels, random: Random) -> Pixels:
    """Shrink to 50–70 %."""
    return _transformed(image, np.eye(2) / random.uniform(0.5, 0.7))


def rotate(image: Pixels, random: Random) -> Pixels:
    """Turn by 20–40 degrees to either side."""
    angle = np.deg2rad(_either(random, 20, 40))
    turned = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return _transformed(image, np.array(turned))


def brightness(image: Pixels, random: Random) -> Pixels:
    """Lighten everything."""
    return image + random.uniform(0.3, 0.5)


def translate(image: Pixels, random: Random) -> Pixels:
    """Move by up to a sixth of the image in both directions."""
    height, width = image.shape[:2]
    return _moved(
        image, random.uniform(-1 / 6, 1 / 6) * width, random.uniform(-1 / 6, 1 / 6) * height
    )


def stripe(image: Pixels, random: Random) -> Pixels:
    """Invert a stripe from top to bottom, a quarter of the image wide."""
    width = image.shape[1]
    left = int(random.integers(0.2 * width, 0.55 * width))
    inverted = image.copy()
    inverted[:, left : left + width // 4] = 1 - inverted[:, left : left + width // 4]
    return inverted


def fog(image: Pixels, random: Random) -> Pixels:
    """Add clouds."""
    clouds = _per_pixel(_clouds(image, random, (2, 4, 8)), image)
    return image * 0.7 + random.uniform(0.4, 0.6) * clouds


def spatter(image: Pixels, random: Random) -> Pixels:
    """Splash drops over a tenth of the image."""
    clouds = _clouds(image, random, (8, 14))
    drops = _per_pixel((clouds > np.quantile(clouds, 0.9)).astype(float), image)
    return np.where(drops > 0, 0.85, image)


def dotted_line(image: Pixels, random: Random) -> Pixels:
    """Draw a straight dotted line from one side to the other."""
    return _drawn(image, _across(image, random, [0, 0]), dotted=True)


def zigzag(image: Pixels, random: Random) -> Pixels:
    """Draw a zigzag from one side to the other."""
    return _drawn(image, _across(image, random, [0.12 * (-1) ** each for each in range(8)]))


def canny_edges(image: Pixels, random: Random) -> Pixels:
    """Keep only outlines, white on black."""
    grey = image if image.ndim == 2 else image.mean(axis=2)
    down, across = np.gradient(_filtered(grey, ImageFilter.GaussianBlur(0.025 * len(grey))))
    strength = np.hypot(down, across)
    padded = np.pad(strength, 1)
    beside = np.maximum(padded[1:-1, :-2], padded[1:-1, 2:])
    above = np.maximum(padded[:-2, 1:-1], padded[2:, 1:-1])
    is_peak = strength >= np.where(np.abs(across) > np.abs(down), beside, above)
    edges = is_peak & (strength > 0.3 * strength.max()) & (strength > 0)
    return _per_pixel(edges.astype(float), image)


CORRUPTIONS: dict[str, Callable[[Pixels, Random], Pixels]] = {
    "shot noise": shot_noise,
    "impulse noise": impulse_noise,
    "glass blur": glass_blur,
    "motion blur": motion_blur,
    "shear": shear,
    "scale": scale,
    "rotate": rotate,
    "brightness": brightness,
    "translate": translate,
    "stripe": stripe,
    "fog": fog,
    "spatter": spatter,
    "dotted line": dotted_line,
    "zigzag": zigzag,
    "canny edges": canny_edges,
}


def _per_pixel(values: Pixels, image: Pixels) -> Pixels:
    """Repeat values, `(height, width)`, for each channel of an image."""
    return values if image.ndim == 2 else np.repeat(values[..., None], image.shape[2], axis=2)


def _either(random: Random, low: float, high: float) -> float:
    """Return a positive or negative number of a size."""
    return float(random.uniform(low, high) * random.choice([-1, 1]))


def _filtered(image: Pixels, blur: ImageFilter.GaussianBlur) -> Pixels:
    return np.asarray(_as_picture(image).filter(blur)) / 255


def _as_picture(image: Pixels) -> Image.Image:
    return Image.fromarray(np.asarray(np.clip(image, 0, 1) * 255, np.uint8))


def _moved(image: Pixels, right: float, down: float) -> Pixels:
    return _affine(image, (1, 0, -right, 0, 1, -down))


def _transformed(image: Pixels, matrix: Pixels) -> Pixels:
    """Map the image around its middle; `matrix`, 2 × 2, leads back to the source."""
    height, width = image.shape[:2]
    middle = np.array([width / 2, height / 2])
    shift = middle - matrix @ middle
    return _affine(image, (*matrix[0], shift[0], *matrix[1], shift[1]))


def _affine(image: Pixels, coefficients: tuple[float, ...]) -> Pixels:
    picture = _as_picture(image)
    moved = picture.transform(
        picture.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(moved) / 255


def _clouds(image: Pixels, random: Random, sizes: tuple[int, ...]) -> Pixels:
    """Return smooth noise, 0..1, of the size of an image: the sum of grids of random values."""
    height, width = image.shape[:2]
    total = np.zeros((height, width))
    for size in sizes:
        grid = _as_picture(random.random((size, size)))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / size
    total -= total.min()
    return np.asarray(total / max(total.max(), 1e-6))


def _across(image: Pixels, random: Random, swings: Sequence[float]) -> Line:
    """Return points from the left to the right side, shifted by swings, in sides of the image."""
    height, width = image.shape[:2]
    start, end = random.uniform(0.2, 0.8, 2) * height
    steps = np.linspace(0, 1, len(swings))
    rows = start + (end - start) * steps + np.asarray(swings) * height
    return list(zip((steps * (width - 1)).tolist(), rows.tolist(), strict=True))


def _drawn(image: Pixels, line: Line, *, dotted: bool = False) -> Pixels:
    """Draw a white line of a twenty-eighth of the image's width."""
    height, width = image.shape[:2]
    thickness = max(1, round(width / 28))
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    if dotted:
        (left, start), (right, end) = line
        for step in np.arange(0, 1, 3 * thickness / width):
            x, y = round(left + step * (right - left)), round(start + step * (end - start))
            draw.rectangle((x, y, x + thickness - 1, y + thickness - 1), fill=255)
    else:
        draw.line(line, fill=255, width=thickness)
    return np.maximum(image, _per_pixel(np.asarray(mask) / 255, image))
