"""How much each pixel of a picture is ink: light or dark, on uneven paper, with grain."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from loupe.images.looks.lighting import evenly_lit
from loupe.images.looks.scaling import averages, reduced
from loupe.images.looks.shapes import Mask, dilate, erode
from loupe.images.spec import UInt8Array
from loupe.images.steps import note

VIEW_SIDE = 64  # pixels; enough to tell whether ink is dark
# Shares of the longer side of the picture.
GROUND_SHARE = 0.42  # what is narrower is ink, and what is wider is ground: shadows, a table
SURROUNDINGS_SHARE = 0.25  # radius; ink differs from its surroundings
MARGIN_SHARE = 0.08  # without it, a frame does not look like ink of the other tone

UNCERTAIN = 0.45  # skewness; less does not tell light from dark ink
MAX_GROUND_EDGE = 0.97  # of the edges of a picture

TINY_SIDE = 16  # pixels; smaller pictures show even ground
SMALL_SIDE = 40  # pixels; smaller pictures are taken as sharp and without grain
GRAIN = 1.5  # standard deviation of grain, in grey levels, from which on it is smoothed
SMOOTHED = 0.28  # of the grain that is left by a Gaussian blur of one pixel
SIGNIFICANT = 5  # standard deviations of the grain between ground and ink
FAINTEST = 12  # of 255; less is paper, or noise of JPEG
EDGE = 3  # pixels; twice the width of blurred edges, and one
DARKEST_PAPER = 0.35  # of the lightest; in deeper shadow, ink counts less


@dataclass(frozen=True)
class Contrast:
    """The contrast of each pixel with the ground.

    Attributes:
        values: uint8, shape `(height, width)`, 0 = ground.
        grain: Standard deviation of the noise in `values`.
    """

    values: UInt8Array
    grain: float

    @cached_property
    def threshold(self) -> float:
        """Values above this are ink. Source: Otsu, IEEE Trans. SMC 9(1), 1979."""
        counts = _histogram(self.values)
        otsu = split(counts)
        if not self.grain:
            return max(otsu, FAINTEST)
        ground = _quantile(counts[: otsu + 1], 0.5)  # grain lifts it above 0
        return max(otsu, ground + SIGNIFICANT * self.grain, FAINTEST)

    @property
    def mask(self) -> Mask:
        """Pixels of ink."""
        return self.values > self.threshold

    def without(self, mask: Mask) -> Self:
        """Return the contrast with some pixels and their edges as ground."""
        return replace(self, values=np.where(dilate(mask, EDGE, EDGE), np.uint8(0), self.values))


def contrast_of(grey: UInt8Array) -> Contrast:
    """Measure how much each pixel, of uint8 `(height, width)`, is ink."""
    small = max(grey.shape) < SMALL_SIDE
    if not small:
        grey = evenly_lit(grey)
    grain = 0.0 if small else _grain(grey)
    if grain > GRAIN:
        note("smoothed", "smoothed the grain")
        grey = np.asarray(Image.fromarray(grey).filter(ImageFilter.GaussianBlur(1)))
        grain *= SMOOTHED
    on_light = has_dark_ink(grey)
    light = 255 - grey if on_light else grey
    if on_light:
        note("inverted", "inverted, because the ink is darker than the ground")
    side = max(grey.shape)
    size = int(GROUND_SHARE * side) | 1 if side > TINY_SIDE else 2 * side + 1
    ground = dilate(erode(light, size, size), size, size)
    values = light - ground
    if on_light:  # a shadow on paper weakens the ink in the same proportion
        lightest = 255 - int(ground.min())
        paper = 255.0 - np.arange(256)  # by the level of the ground
        gain = (255 / np.maximum(paper, max(1, DARKEST_PAPER * lightest)))[ground]
        values = np.minimum(values * gain, 255).astype(np.uint8)
        grain *= float(gain.mean())
    return Contrast(values, grain)


def has_dark_ink(grey: UInt8Array) -> bool:
    """Return whether the ink is darker than its surroundings, on average of their difference cubed.

    Ink is the smaller part, and differs more. Both hold with and without the edges of the picture,
    where a frame may be.
    """
    view = reduced(grey, VIEW_SIDE)
    skewness = _skewness(view)
    margin = round(MARGIN_SHARE * max(view.shape))
    if min(view.shape) > 4 * margin + 8:
        skewness = (skewness + _skewness(view[margin:-margin, margin:-margin])) / 2
    if abs(skewness) < UNCERTAIN:
        skewness -= _light_corners(grey)
    return skewness < 0


def _light_corners(grey: UInt8Array) -> float:
    """Return how many corners are light and not dark, -1..1; 0 unless ink reaches the edges.

    A picture that is cut to its ink shows as much ink as ground, but the ground in the corners.
    """
    light = grey > split(_histogram(grey))
    edges = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]]).mean()
    if not 1 - MAX_GROUND_EDGE < edges < MAX_GROUND_EDGE:
        return 0
    corners = (light[0, 0], light[0, -1], light[-1, 0], light[-1, -1])
    return float(np.mean(corners)) * 2 - 1


def split(counts: NDArray[np.intp]) -> int:
    """Return the highest level of the lower class of a histogram, by Otsu's method."""
    below = counts.cumsum()
    sums = (counts * np.arange(len(counts))).cumsum()
    above = below[-1] - below
    between = (sums[-1] / below[-1] * below - sums) ** 2 / np.maximum(below * above, 1)
    return int(between.argmax())


def _skewness(grey: UInt8Array) -> float:
    height, width = grey.shape
    near = 2 * max(2, round(SURROUNDINGS_SHARE * max(height, width))) + 1
    values = grey.astype(np.float32)
    surroundings = averages(height, height, near) @ values @ averages(width, width, near).T
    differences = (values - surroundings).ravel()
    squares = differences * differences
    return float(squares @ differences / ((squares.sum() + 1e-3) ** 1.5) * len(squares) ** 0.5)


def _grain(grey: UInt8Array) -> float:
    """Estimate the standard deviation of noise from neighbouring pixels of every other row."""
    left, right = grey[::2, :-1], grey[::2, 1:]
    differences = np.maximum(left, right) - np.minimum(left, right)
    return _quantile(_histogram(differences), 0.5) / 0.95  # of the normal distribution


def _histogram(values: UInt8Array) -> NDArray[np.intp]:
    return np.bincount(values.ravel(), minlength=256)


def _quantile(counts: NDArray[np.intp], fraction: float) -> int:
    """Return the level below which a fraction of a histogram lies."""
    below = counts.cumsum()
    return int(np.searchsorted(below, fraction * below[-1]))
