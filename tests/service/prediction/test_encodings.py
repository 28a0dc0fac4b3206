"""Nested lists as images in colour; `tests.service.protocols` has those in grey."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from loupe.errors import InvalidPixels
from loupe.images.spec import ImageSpec, UInt8Array
from service.prediction.encodings import from_numbers, from_pixels

SPEC = ImageSpec("photo", 16, 20, 3)
IMAGE = np.random.default_rng(0).integers(0, 256, SPEC.shape, dtype=np.uint8)


def changed(value: object) -> Any:
    """Return the image with a value in the place of the pixel in row 2, column 3."""
    rows: Any = IMAGE.tolist()
    rows[2][3] = value
    return rows


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (from_pixels, IMAGE.tolist()),
        (from_numbers, IMAGE.tolist()),
        (from_numbers, IMAGE.ravel().tolist()),
        (from_numbers, (IMAGE / 255).tolist()),
        (from_numbers, (IMAGE / 255).ravel().tolist()),
    ],
)
def test_colours_are_read(read: Callable[[Any, ImageSpec], UInt8Array], value: object) -> None:
    np.testing.assert_array_equal(read(value, SPEC), IMAGE)


@pytest.mark.parametrize("read", [from_pixels, from_numbers])
@pytest.mark.parametrize(
    ("value", "facts"),
    [
        (changed([1, 2]), ["2.3"]),
        (changed([1, 2, 256]), ["2.3.2", "256"]),
        (changed([1, 2, "x"]), ["2.3.2", "'x'"]),
        ((IMAGE > 99).tolist(), ["0.0.0"]),
        (changed(7), ["2.3"]),
        (changed("abc"), ["2.3"]),
        (IMAGE[:, :, 0].tolist(), ["16 rows of 20", "16 × 20."]),
        (IMAGE.transpose(2, 0, 1).tolist(), ["16 rows of 20", "3 × 16 × 20"]),
        (np.zeros((28, 28)).tolist(), ["16 rows of 20", "28 × 28"]),
        ([], ["16 rows of 20"]),
        (None, ["16 rows of 20"]),
    ],
)
def test_other_values_are_refused_with_their_place(
    read: Callable[[Any, ImageSpec], UInt8Array], value: object, facts: list[str]
) -> None:
    with pytest.raises(InvalidPixels) as raised:
        read(value, SPEC)

    for fact in facts:
        assert fact in raised.value.message
    assert len(raised.value.message) < 300
