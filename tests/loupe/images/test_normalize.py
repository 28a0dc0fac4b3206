"""Normalising pictures, and checking batches."""

import os
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from loupe.errors import InvalidImage, InvalidPixels
from loupe.images.decode import open_picture
from loupe.images.looks.strokes import is_centred
from loupe.images.normalize import border_mean, normalize_pixels, split_pixels
from loupe.images.spec import Fit, ImageSpec, Look, UInt8Array
from loupe.models.engines.engine import Engine
from tests.support.pictures import (
    SIDE,
    digit_sheet,
    on_millimetre_paper,
    png,
    strokes,
    with_frame,
)
from tests.support.stains import STAINS, draw_stains
from train.data.datasets import Dataset, load_dataset
from train.evaluate.robustness.handwriting import KINDS, blank, draw, place, several

LOOKS: tuple[Look, ...] = ("ink", "object")
FITS: tuple[Fit, ...] = get_args(Fit)
INK = ImageSpec("ink", single=True)
# Loss of accuracy with strokes unlike those that the model has learnt.
LOSSES = {"one pixel": 0.2, "marker": 0.2, "chalk": 0.15}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    """Return 8 × 8 digits of scikit-learn as images of 28 × 28."""
    return load_dataset("digits")


@pytest.mark.parametrize("size", [(64, 64), (48, 64)], ids=str)
@pytest.mark.parametrize("fit", FITS)
def test_photos_of_any_size_fit(fit: Fit, size: tuple[int, int]) -> None:
    spec = ImageSpec("photo", *size, fit=fit)

    for side in range(1, 240):
        for shape in ((side, 240), (240, side)):
            assert normalize_pixels(np.zeros(shape, np.uint8), spec).shape == size


@given(image=arrays(np.uint8, (SIDE, SIDE)), look=st.sampled_from(LOOKS))
def test_28_by_28_pixels_on_a_dark_ground_are_unchanged(image: UInt8Array, look: Look) -> None:
    image[[0, -1]] = 0
    image[:, [0, -1]] = 0

    assert normalize_pixels(image, ImageSpec(look)) is image
    decoded = open_picture(png(image), max_pixels=SIDE * SIDE).pixels(ImageSpec(look))
    np.testing.assert_array_equal(decoded, image)


def test_centred_ink_of_28_by_28_pixels_and_its_negative_are_unchanged(digits: Dataset) -> None:
    for image in digits.test.images[:100]:
        assert normalize_pixels(image, INK) is image
        np.testing.assert_array_equal(normalize_pixels(255 - image, INK), image)


def test_mnist_and_its_negatives_are_unchanged() -> None:
    folder = os.environ.get("LOUPE_TEST_DATA")
    if folder is None:
        pytest.skip("LOUPE_TEST_DATA names no folder with mnist/*.gz")
    mnist = load_dataset("mnist", Path(folder, "mnist"))
    for split in (mnist.train, mnist.test):
        for image in split.images:
            assert normalize_pixels(image, INK) is image
            np.testing.assert_array_equal(normalize_pixels(255 - image, INK), image)


def test_all_parts_of_own_symbols_are_kept() -> None:
    symbol = np.full((100, 100), 250, np.uint8)
    symbol[20:80, 20:30] = symbol[20:80, 70:80] = 0

    middle_row = normalize_pixels(symbol, ImageSpec("ink"))[14]
    assert np.ptp(middle_row.nonzero()[0]) >= 15  # from the left stroke to the right one


def test_ink_of_28_by_28_pixels_is_centred(digits: Dataset) -> None:
    for image in digits.test.images[:20]:
        moved = np.roll(image, (-3, 3), axis=(0, 1))
        difference = normalize_pixels(moved, INK).astype(int) - image

        assert not is_centred(moved)
        assert np.abs(difference).mean() < 20


@given(
    image=arrays(np.uint8, st.tuples(st.integers(1, 60), st.integers(1, 60))),
    look=st.sampled_from(LOOKS),
)
def test_normalize_takes_any_grey(image: UInt8Array, look: Look) -> None:
    normalized = normalize_pixels(image, ImageSpec(look))
    assert normalized.dtype == np.uint8
    assert normalized.shape == (SIDE, SIDE)


@pytest.mark.parametrize("look", LOOKS)
def test_dark_on_light_equals_light_on_dark(look: Look, digits: Dataset) -> None:
    random = np.random.default_rng(0)
    for digit in digits.test.images[:20]:
        light = np.where(place(digit, random) > 0.5, 10, 255).astype(np.uint8)

        np.testing.assert_array_equal(
            normalize_pixels(light, ImageSpec(look)), normalize_pixels(255 - light, ImageSpec(look))
        )


@pytest.mark.parametrize(
    "spec", [INK, ImageSpec("ink", 32, 32, single=True), ImageSpec("ink", 64, 48)], ids=str
)
def test_ink_fits_its_box_with_its_mass_in_the_middle(spec: ImageSpec, digits: Dataset) -> None:
    random = np.random.default_rng(0)
    for digit in digits.test.images[:20]:
        image = normalize_pixels(draw("plain", digit, random), spec)

        rows, columns = np.nonzero(image)
        assert image.max() == 255
        side = round(min(spec.height, spec.width) * 20 / 28)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 <= side
        weights = image[rows, columns]
        assert np.average(rows, weights=weights) == pytest.approx(spec.height / 2, abs=0.51)
        assert np.average(columns, weights=weights) == pytest.approx(spec.width / 2, abs=0.51)


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


@pytest.mark.parametrize("ground", [255, 200, 60, 0])
def test_object_on_plain_ground_is_cut_out_wherever_it_lies(ground: int) -> None:
    random = np.random.default_rng(0)
    photo = random.normal(ground, 3, (300, 200)).clip(0, 255).astype(np.uint8)
    photo[200:280, 30:70] = photo[200:280, 90:130] = 130  # two shoes

    image = normalize_pixels(photo, ImageSpec("object"))

    rows, columns = np.nonzero(image > 40)
    assert (rows.min(), rows.max()) == pytest.approx((3, 24), abs=2)
    assert (columns.min(), columns.max()) == pytest.approx((0, 27), abs=1)
    assert image[14, 14] < 20  # the ground between them
    assert len(np.unique(image[[0, -1]])) == 1


def test_object_on_uneven_ground_keeps_the_whole_picture() -> None:
    photo = np.tile(np.linspace(0, 120, 100).astype(np.uint8), (100, 1))
    photo[60:80, 60:80] = 250
    rows, columns = np.nonzero(normalize_pixels(photo, ImageSpec("object")) > 200)

    assert (rows.min(), columns.min()) == pytest.approx((17, 17), abs=1)


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


# Against handwriting


def as_read(picture: UInt8Array) -> UInt8Array:
    """Normalise a picture; one that is refused is read as a blank one."""
    try:
        return normalize_pixels(picture, INK)
    except InvalidImage:
        return np.zeros(INK.shape, np.uint8)


# Cut to its ink, a digit that was enlarged from 8 × 8 pixels shows more ink than paper.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tight"])
def test_digits_are_read_however_they_are_written(
    kind: str, engine: Engine, digits: Dataset
) -> None:
    random = np.random.default_rng(0)
    shown, labels = digits.test.images[:100], digits.test.labels[:100]
    images = [as_read(draw(kind, digit, random)) for digit in shown]

    right = (engine.predict(INK.stack(images)).argmax(axis=1) == labels).mean()

    loss = LOSSES.get(kind, 0.1)
    assert right >= (engine.predict(shown).argmax(axis=1) == labels).mean() - loss


def test_several_symbols_are_refused_with_their_boxes(digits: Dataset) -> None:
    random = np.random.default_rng(0)
    for count in (2, 3, 4):
        picture = several(digits.test.images[:count], random)

        with pytest.raises(InvalidImage) as raised:
            normalize_pixels(picture, INK)

        assert raised.value.code == "several_objects"
        boxes = re.findall(r"(0\.\d\d) 0\.\d\d (0\.\d\d) 0\.\d\d", raised.value.message)
        assert len(boxes) == count
        middles = [(float(left) + float(right)) / 2 for left, right in boxes]
        assert middles == sorted(middles)
        assert normalize_pixels(picture, ImageSpec("ink")).any()


def test_each_of_several_symbols_gets_an_image_and_its_box(digits: Dataset) -> None:
    random = np.random.default_rng(0)
    lines = [several(digits.test.images[first : first + 3], random) for first in (0, 3)]
    width = max(line.shape[1] for line in lines)
    paper = int(min(line.max() for line in lines))
    page = np.concatenate(
        [
            np.pad(line, ((0, 0), (0, width - line.shape[1])), mode="edge").clip(max=paper)
            for line in lines
        ]
    )

    symbols = split_pixels(page, INK)

    assert len(symbols) == 6
    for row, (line, digit) in enumerate(zip(symbols, digits.test.images, strict=False)):
        image, (left, top, right, bottom) = line
        assert is_centred(image)
        assert np.abs(image.astype(int) - digit).mean() < 40
        assert 0 <= left < right <= 1
        assert (top + bottom) / 2 < 0.5 if row < 3 else (top + bottom) / 2 > 0.5
    boxes = [box for _, box in symbols]
    assert [box[0] for box in boxes[:3]] == sorted(box[0] for box in boxes[:3])
    rows, columns = page.shape
    for _, (left, top, right, bottom) in symbols:  # the ink of the box alone gives the same digit
        cut = page[
            int(top * rows) : round(bottom * rows), int(left * columns) : round(right * columns)
        ]
        assert len(split_pixels(np.pad(cut, 20, mode="edge"), INK)) == 1


def test_pictures_of_the_model_s_size_and_blank_ones_are_one_symbol_or_none(
    digits: Dataset,
) -> None:
    image = digits.test.images[0]

    assert [box for _, box in split_pixels(image, INK)] == [(0, 0, 1, 1)]
    assert split_pixels(np.zeros_like(image), INK) == []
    assert split_pixels(np.full((60, 60), 240, np.uint8), INK) == []


def test_too_many_symbols_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loupe.images.looks.ink.MAX_SYMBOLS", 2)
    assert len(split_pixels(strokes(2), INK)) == 2

    with pytest.raises(InvalidImage) as raised:
        split_pixels(strokes(3), INK)

    assert raised.value.code == "several_objects"


def test_a_frame_that_touches_the_digit_is_removed(digits: Dataset) -> None:
    random = np.random.default_rng(0)
    for digit in digits.test.images[:10]:
        page = draw("plain", digit, random)
        rows, columns = np.nonzero(page < 150)
        framed = page.copy()
        top, bottom, left, right = rows.min(), rows.max(), columns.min() - 8, columns.max() + 8
        framed[[top - 1, bottom + 9], max(0, left) : right] = 60
        framed[top - 1 : bottom + 10, [max(0, left), min(199, right)]] = 60

        difference = as_read(framed).astype(int) - as_read(page)

        assert np.abs(difference).mean() < 15


def test_pencil_is_read_in_a_frame_that_is_darker(digits: Dataset) -> None:
    random = np.random.default_rng(0)
    for digit in digits.test.images[:12]:
        page = draw("pencil", digit, random)

        difference = as_read(with_frame(page, random)).astype(int) - as_read(page)

        assert np.abs(difference).mean() < 10


def test_darker_lines_of_millimetre_paper_are_no_ink(digits: Dataset) -> None:
    random = np.random.default_rng(0)
    for digit in digits.test.images[:12]:
        page = draw("ballpoint", digit, random)

        difference = as_read(on_millimetre_paper(page, random)).astype(int) - as_read(page)

        assert np.abs(difference).mean() < 40


@pytest.mark.parametrize("slope", [-0.25, -0.1, 0.1, 0.25])
def test_tilted_lines_of_the_paper_are_no_ink(slope: float) -> None:
    y, x = np.mgrid[:200, :200]
    lines = (y + slope * x) % 24 < 2
    page = np.where(lines, 150, 240).astype(np.uint8)
    page[70:130, 95:105] = 30

    rows, columns = np.nonzero(normalize_pixels(page, INK) > 127)
    assert np.ptp(rows) > 4 * np.ptp(columns)


def test_ink_cut_where_it_ends_is_told_from_the_ground() -> None:
    ring = np.full((100, 80), 240, np.uint8)
    y, x = np.mgrid[:100, :80]
    distance = np.hypot((y - 49.5) / 50, (x - 39.5) / 40)
    ring[(distance < 1.02) & (distance > 0.5)] = 40  # more ink than ground

    image = normalize_pixels(ring, INK)

    assert image[14, 14] < 60
    assert image[[5, 22], 14].min() > 127


@pytest.mark.parametrize(
    "kind",
    [
        "plain",
        "shading 60 %",
        "shadow edge",
        "grain",
        "table",
        "photo",
        "frame",
        "ruled",
        "screenshot",
    ],
)
def test_paper_without_ink_becomes_black(kind: str) -> None:
    random = np.random.default_rng(0)
    images = [normalize_pixels(blank(kind, random), INK) for _ in range(10)]

    assert sum(image.any() for image in images) <= 1


@pytest.mark.parametrize("kind", STAINS)
def test_stains_wiped_chalk_and_blocks_of_jpeg_are_no_ink(kind: str) -> None:
    random = np.random.default_rng(0)
    images = [as_read(draw_stains(kind, random)) for _ in range(20)]

    assert sum(image.any() for image in images) <= 3


def test_ink_beside_a_stain_is_read(digits: Dataset) -> None:
    random = np.random.default_rng(1)
    for digit in digits.test.images[:10]:
        page = np.concatenate(
            [draw_stains("smudged", random), draw("plain", digit, random)], axis=1
        )

        assert as_read(page).any()


def test_the_blurred_line_of_a_marker_is_ink() -> None:
    page = np.full((200, 200), 250, np.uint8)
    page[40:160, 85:115] = 10
    blurred = np.asarray(Image.fromarray(page).filter(ImageFilter.GaussianBlur(6)))

    assert normalize_pixels(blurred, INK).any()


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
