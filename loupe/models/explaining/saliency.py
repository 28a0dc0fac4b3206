"""Saliency by occlusion: how much each part of an image speaks for the class that was predicted.

A window covers one part after the other, and the model answers each time. Source: Zeiler and
Fergus, "Visualizing and Understanding Convolutional Networks", 2014,
https://arxiv.org/abs/1311.2901.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array

POSITIONS = 12  # of the window along each side
MAX_IMAGES = POSITIONS**2  # that a map takes; windows that change nothing take none
WINDOW = 5 / 28  # of a side; about two strokes of a digit
SURE = 1e-4  # probabilities that are so near to 0 and 1 count alike
SIDE = 224  # pixels of a drawn map, about
FOR, AGAINST = (217, 115, 13), (43, 108, 176)  # orange and blue
OPAQUE = 0.9  # of the colour where the map is strongest


@dataclass(frozen=True)
class Occlusion:
    """Copies of an image, each with a part covered.

    Attributes:
        images: uint8, `(n, *shape)`, at most `MAX_IMAGES`.
        windows: bool, `(n, height, width)`: the part that is covered in each.
    """

    images: UInt8Array
    windows: NDArray[np.bool_]

    def saliency(self, before: Float32Array, after: Float32Array) -> Float32Array:
        """Return how much each pixel speaks for the predicted class.

        Args:
            before: Probabilities of the whole image, float32 `(classes,)`.
            after: Those of `images`, float32 `(n, classes)`.

        Returns:
            float32, `(height, width)`: the log-odds, in nats, that the class loses when the pixel
            is covered, on average. Below 0, the pixel speaks against the class.
        """
        best = before.argmax()
        losses = _log_odds(before[best]) - _log_odds(after[:, best])  # (n,)
        covered = self.windows.sum(axis=0)
        total = np.tensordot(losses, self.windows, axes=1)
        return np.asarray(total / np.maximum(covered, 1), np.float32)


def occlude(image: UInt8Array, spec: ImageSpec) -> Occlusion:
    """Cover parts of an image with ground: black, or the mean colour of a photo."""
    height, width = image.shape[:2]
    ground = image.mean(axis=(0, 1)).astype(np.uint8) if spec.look == "photo" else np.uint8(0)
    rows, columns = _spans(height), _spans(width)
    windows = (rows[:, None, :, None] & columns[None, :, None, :]).reshape(-1, height, width)
    mask = windows[..., np.newaxis] if image.ndim == 3 else windows
    images = np.where(mask, ground, image)
    changed = (images != image).reshape(len(images), -1).any(axis=1)
    return Occlusion(images[changed], windows[changed])


def draw(image: UInt8Array, saliency: Float32Array) -> UInt8Array:
    """Draw a map on its image: orange speaks for the class, blue against it.

    Returns:
        uint8, RGB, of about `SIDE` pixels.
    """
    height, width = saliency.shape
    factor = max(1, round(SIDE / max(height, width)))
    size = (width * factor, height * factor)
    share = saliency / max(float(np.abs(saliency).max()), 1e-6)
    smooth = Image.fromarray(share).resize(size, Image.Resampling.BILINEAR)
    share = np.asarray(smooth)[..., np.newaxis]  # (height, width, 1)
    large = Image.fromarray(image).convert("RGB").resize(size, Image.Resampling.NEAREST)
    colour = np.where(share > 0, np.array(FOR), np.array(AGAINST))
    opacity = OPAQUE * np.abs(share)
    return np.asarray((1 - opacity) * np.asarray(large) + opacity * colour, np.uint8)


def _spans(length: int) -> NDArray[np.bool_]:
    """Return which pixels of a side each position of the window covers, `(positions, length)`."""
    size = round(WINDOW * length)
    starts = np.linspace(0, length - size, POSITIONS).round()
    pixels = np.arange(length)
    return (pixels >= starts[:, None]) & (pixels < starts[:, None] + size)


def _log_odds(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    clipped = np.clip(probabilities.astype(np.float64), SURE, 1 - SURE)
    return np.asarray(np.log(clipped / (1 - clipped)))
