"""Shapes of arrays of images: a model's own, and others that can only mean the same."""

from collections.abc import Sequence

import numpy as np

from loupe.images.spec import ImageSpec, UInt8Array


def fits(shape: Sequence[int], spec: ImageSpec) -> bool:
    """Return whether an array of this shape holds images of a model.

    An image may be flat, and colours may be the first axis of an image, as in PyTorch: no side has
    fewer than 16 pixels. Axes of length 1 do not count.
    """
    own, flat = [*spec.shape], [spec.nbytes]
    known = (own, flat, _planes(spec))
    return len(shape) > 1 and shape[0] >= 0 and _sides(shape) in known


def has_planes(shape: Sequence[int], spec: ImageSpec) -> bool:
    """Return whether the colours are the first axis of each image."""
    return spec.channels == 3 and _sides(shape) == _planes(spec)


def to_batch(images: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Return an array that `fits` in the model's own shape, uint8 `(n, *spec.shape)`."""
    if has_planes(images.shape, spec):
        planes = images.reshape(-1, *_planes(spec))
        return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))  # (n, height, width, 3)
    return images.reshape(-1, *spec.shape)


def listed(spec: ImageSpec) -> str:
    """Return the shapes of arrays that fit, for errors."""
    height, width = spec.height, spec.width
    first = f"(n, {height}, {width}{', 3' if spec.channels == 3 else ''})"
    second = f"(n, 3, {height}, {width})" if spec.channels == 3 else f"(n, {height}, {width}, 1)"
    return f"{first}, {second} or (n, {spec.nbytes})"


def _planes(spec: ImageSpec) -> list[int]:
    return [spec.channels, spec.height, spec.width]


def _sides(shape: Sequence[int]) -> list[int]:
    return [size for size in shape[1:] if size != 1]
