"""Shapes of arrays that hold images of a model."""

import numpy as np
import pytest

from loupe.images.arrays.shapes import fits, to_batch
from loupe.images.spec import ImageSpec

GREY, COLOUR = ImageSpec("ink", 20, 24), ImageSpec("photo", 20, 24, 3)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (GREY, (2, 20, 24)),
        (GREY, (2, 20, 24, 1)),
        (GREY, (2, 1, 20, 24)),
        (GREY, (2, 480)),
        (GREY, (0, 20, 24)),
        (COLOUR, (2, 20, 24, 3)),
        (COLOUR, (2, 1440)),
    ],
)
def test_other_shapes_of_the_same_pixels_become_the_models_own(
    spec: ImageSpec, shape: tuple[int, ...]
) -> None:
    images = np.arange(np.prod(shape)).astype(np.uint8).reshape(shape)

    assert fits(shape, spec)
    batch = to_batch(images, spec)
    assert batch.shape == (shape[0], *spec.shape)
    np.testing.assert_array_equal(batch.ravel(), images.ravel())


def test_colours_may_be_the_first_axis() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2))

    assert fits(planes.shape, COLOUR)
    np.testing.assert_array_equal(to_batch(planes, COLOUR), images)


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        (GREY, (20, 24)),
        (GREY, (2, 24, 20)),
        (GREY, (2, 20, 24, 3)),
        (GREY, (2, 1440)),
        (COLOUR, (2, 20, 24)),
        (COLOUR, (2, 20, 24, 4)),
        (COLOUR, (2, 24, 20, 3)),
        (COLOUR, (2, 20, 3, 24)),
        (COLOUR, (20, 24, 3)),
        (COLOUR, (-1, 20, 24, 3)),
        (GREY, ()),
    ],
)
def test_other_arrays_do_not_fit(spec: ImageSpec, shape: tuple[int, ...]) -> None:
    assert not fits(shape, spec)
