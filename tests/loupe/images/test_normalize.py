"""Normalising pictures, and checking batches."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from loupe.errors import InvalidPixels
from loupe.images.decode import open_picture
from loupe.images.normalize import border_mean, normalize_pixels
from loupe.images.spec import SIDE, ImageSpec, Look, UInt8Array
from loupe.models.engine import Engine
from tests.support.pictures import digit_sheet, png

LOOKS: tuple[Look, ...] = ("ink", "object")


@given(image=arrays(np.uint8, (SIDE, SIDE)), look=st.sampled_from(LOOKS))
def test_28_by_28_pixels_on_a_dark_ground_are_unchanged(image: UInt8Array, look: Look) -> None:
    image[[0, -1]] = 0
    image[:, [0, -1]] = 0

    assert normalize_pixels(image, ImageSpec(look)) is image
    decoded = open_picture(png(image), max_pixels=SIDE * SIDE).pixels(ImageSpec(look))
    np.testing.assert_array_equal(decoded, image)


@given(
    image=arrays(np.uint8, st.tuples(st.integers(2, 60), st.integers(2, 60))),
    look=st.sampled_from(LOOKS),
)
def test_normalize_takes_any_grey(image: UInt8Array, look: Look) -> None:
    normalized = normalize_pixels(image, ImageSpec(look))
    assert normalized.dtype == np.uint8
    assert normalized.shape == (SIDE, SIDE)


@given(
    strokes=arrays(np.bool_, (15, 11)).filter(lambda strokes: bool(strokes.any())),
    top=st.integers(2, 30),
    left=st.integers(2, 30),
    scale=st.integers(1, 4),
)
def test_dark_on_light_equals_light_on_dark(
    strokes: UInt8Array, top: int, left: int, scale: int
) -> None:
    ink = np.kron(strokes, np.ones((scale, scale))).astype(bool)
    light = np.full((130, 110), 255, np.uint8)
    light[top : top + ink.shape[0], left : left + ink.shape[1]][ink] = 10

    for look in LOOKS:
        np.testing.assert_array_equal(
            normalize_pixels(light, ImageSpec(look)), normalize_pixels(255 - light, ImageSpec(look))
        )


@given(
    strokes=arrays(np.bool_, (12, 12)).filter(lambda strokes: bool(strokes[3:9, 3:9].any())),
    top=st.integers(2, 30),
    left=st.integers(2, 30),
    scale=st.integers(2, 5),
)
def test_ink_fits_20_by_20_with_its_mass_in_the_middle(
    strokes: UInt8Array, top: int, left: int, scale: int
) -> None:
    ink = np.kron(strokes, np.ones((scale, scale))).astype(bool)
    sheet = np.full((140, 120), 250, np.uint8)
    sheet[top : top + ink.shape[0], left : left + ink.shape[1]][ink] = 0
    image = normalize_pixels(sheet, ImageSpec("ink"))

    rows, columns = np.nonzero(image)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(height, width) <= 20
    middle = (
        np.average(rows, weights=image[rows, columns]),
        np.average(columns, weights=image[rows, columns]),
    )
    for centre, low, high in zip(
        middle, (rows.min(), columns.min()), (rows.max(), columns.max()), strict=True
    ):
        # Half a pixel from the middle, unless the edge is in the way: ink is never cut.
        assert abs(centre - 13.5) <= 0.51 or low == 0 or high == SIDE - 1


def test_position_of_the_ink_does_not_matter() -> None:
    moved = np.roll(digit_sheet(), (20, -15), axis=(0, 1))

    np.testing.assert_array_equal(
        normalize_pixels(digit_sheet(), ImageSpec("ink")), normalize_pixels(moved, ImageSpec("ink"))
    )


def test_shadows_on_paper_are_not_ink() -> None:
    sheet = digit_sheet()
    shaded = sheet.copy()
    shaded[:, :20] = 235

    np.testing.assert_array_equal(
        normalize_pixels(shaded, ImageSpec("ink")), normalize_pixels(sheet, ImageSpec("ink"))
    )


@pytest.mark.parametrize(
    ("shape", "brightness"),
    [((50, 40), brightness) for brightness in (0, 7, 127, 128, 200, 255)]
    + [((SIDE, SIDE), 128), ((SIDE, SIDE), 255)],
)
def test_empty_sheet_has_no_ink(shape: tuple[int, int], brightness: int) -> None:
    assert not normalize_pixels(np.full(shape, brightness, np.uint8), ImageSpec("ink")).any()


def test_object_keeps_its_proportions_and_is_centred() -> None:
    photo = np.full((200, 100), 255, np.uint8)
    photo[20:180, 20:80] = 40
    image = normalize_pixels(photo, ImageSpec("object"))

    assert not image[:, :7].any()
    assert not image[:, 21:].any()
    assert image[14, 14] == 215


def test_border_is_the_outermost_pixels() -> None:
    image = np.zeros((4, 4), np.uint8)
    image[0], image[:, 0], image[1:3, 1:3] = 160, 160, 255

    assert border_mean(image) == 100


# Batches


def test_valid_batch_is_returned_unchanged() -> None:
    batch = np.zeros((3, SIDE, SIDE), np.uint8)

    assert np.shares_memory(ImageSpec("ink").check_batch(batch), batch)
    assert len(ImageSpec("ink").check_batch(batch[:0])) == 0


@pytest.mark.parametrize(
    ("batch", "received"),
    [
        pytest.param(
            np.zeros((1, SIDE, SIDE), np.float32), "float32, shape (1, 28, 28)", id="floats"
        ),
        pytest.param(np.zeros((1, SIDE, SIDE), np.int8), "int8, shape (1, 28, 28)", id="signed"),
        pytest.param(np.zeros((SIDE, SIDE), np.uint8), "uint8, shape (28, 28)", id="one image"),
        pytest.param(np.zeros((1, SIDE * SIDE), np.uint8), "uint8, shape (1, 784)", id="flat"),
        pytest.param(
            np.zeros((1, SIDE, SIDE, 1), np.uint8),
            "uint8, shape (1, 28, 28, 1)",
            id="with a channel",
        ),
        pytest.param(np.zeros((), np.uint8), "uint8, shape ()", id="a number"),
    ],
)
def test_other_arrays_are_refused_as_a_batch(batch: UInt8Array, received: str) -> None:
    with pytest.raises(InvalidPixels) as raised:
        ImageSpec("ink").check_batch(batch)

    assert "shape (n, 28, 28)" in raised.value.message
    assert received in raised.value.message


# Against real handwriting


def test_normalizing_improves_accuracy_on_handwriting_over_resizing(
    engine: Engine,
) -> None:
    folder = os.environ.get("LOUPE_TEST_DATA")
    if folder is None:
        pytest.skip("LOUPE_TEST_DATA names no folder with handwriting/<digit>/*.png")
    paths = sorted(Path(folder, "handwriting").glob("[0-9]/*.png"))[::5]
    labels = np.array([int(path.parent.name) for path in paths])
    normalized = np.stack(
        [
            open_picture(path.read_bytes(), max_pixels=10**6).pixels(ImageSpec("ink"))
            for path in paths
        ]
    )
    small = np.stack(
        [np.asarray(Image.open(path).convert("L").resize((SIDE, SIDE))) for path in paths]
    )

    def accuracy(images: UInt8Array) -> float:
        return float((engine.predict(images).argmax(axis=1) == labels).mean())

    assert accuracy(normalized) > accuracy(small) + 0.1
    assert accuracy(normalized) > accuracy(255 - small) + 0.1


@pytest.mark.parametrize("width", range(1, 13))
def test_lines_of_any_width_become_as_strong_as_a_pen_s(width: int) -> None:
    sheet = np.zeros((100, 100), np.uint8)
    sheet[10:90, 40 : 40 + width] = 255

    line = normalize_pixels(sheet, ImageSpec("ink"))

    assert line.max() == 255
    strong = (line > 127).sum(axis=1).max()  # columns of strong ink
    assert 1 <= strong <= 4
    assert line.sum() >= 20 * 1.5 * 255  # 20 rows, one and a half columns full
