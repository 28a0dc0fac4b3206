"""Image specs, and how photos get the size of a model."""

from typing import Literal

import numpy as np
import pytest

from loupe.errors import InvalidPixels
from loupe.images.decode import open_picture
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import Fit, ImageSpec, Look
from tests.support.pictures import png

BARS = np.repeat(np.array([[10, 60, 110, 160, 210]], np.uint8), 20, axis=1).repeat(40, axis=0)
# 40 rows, 100 columns: five bars of 20 columns
COLOURED = np.stack([BARS, 255 - BARS, BARS // 2], axis=2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("fit", "seen"),
    [
        pytest.param("crop", [60, 110, 160], id="the middle 40 columns and half a bar around"),
        pytest.param("stretch", [10, 60, 110, 160, 210], id="all bars"),
        pytest.param("pad", [10, 60, 110, 160, 210], id="all bars in proportion"),
    ],
)
def test_photos_fit_as_the_spec_says(fit: Fit, seen: list[int], channels: Literal[1, 3]) -> None:
    spec = ImageSpec("photo", 20, 40 if fit == "stretch" else 30, channels, fit)
    photo = BARS if channels == 1 else COLOURED
    image = normalize_pixels(photo, spec)

    assert image.shape == spec.shape
    middle = image[10] if channels == 1 else image[10, :, 0]
    assert {int(value) for value in middle} >= set(seen)
    assert bool(image[0].any()) == (fit != "pad")
    if channels == 3:
        np.testing.assert_array_equal(
            image[10, 15], [middle[15], 255 - middle[15], middle[15] // 2]
        )


def test_photos_of_the_size_of_the_model_keep_their_pixels() -> None:
    spec = ImageSpec("photo", 40, 100, 3)
    picture = open_picture(png(COLOURED), max_pixels=10_000)

    np.testing.assert_array_equal(picture.pixels(spec), COLOURED)


@pytest.mark.parametrize("look", ["ink", "object"])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (64, 64), (32, 96)])
def test_ink_and_objects_get_any_size(look: Look, height: int, width: int) -> None:
    sheet = np.full((300, 200), 250, np.uint8)
    sheet[100:200, 80:120] = 20
    image = normalize_pixels(sheet, ImageSpec(look, height, width))

    assert image.shape == (height, width)
    assert image.max() >= 230
    assert image[:, 0].max() <= 5


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"look": "photo", "height": 15}, "15"),
        ({"look": "photo", "width": 129}, "129"),
        ({"look": "ink", "channels": 3}, "ink"),
        ({"look": "object", "channels": 3}, "object"),
    ],
)
def test_impossible_specs_are_refused(values: dict[str, object], fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        ImageSpec(**values)  # type: ignore[arg-type]


def test_batches_of_another_shape_are_refused_with_both_shapes() -> None:
    spec = ImageSpec("photo", 64, 48, 3)
    assert len(spec.check_batch(spec.zeros(2))) == 2
    with pytest.raises(InvalidPixels) as raised:
        spec.check_batch(ImageSpec("ink").zeros(2))

    assert "(n, 64, 48, 3)" in raised.value.message
    assert "(2, 28, 28)" in raised.value.message


def test_only_ink_can_be_blank() -> None:
    images = ImageSpec("ink").zeros(2)
    images[1, 3, 4] = 1

    assert ImageSpec("ink").blank(images).tolist() == [True, False]
    assert ImageSpec("ink").blank(images[:0]).tolist() == []
    assert ImageSpec("object").blank(images).tolist() == [False, False]
