"""The contact sheet: every class has its row, and every sample is there pixel by pixel."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import NotWritable
from loupe.images.spec import UInt8Array
from tests.support import pictures
from train.data.contact_sheet import (
    COLUMNS,
    HEADING,
    MARGIN,
    ROW_GAP,
    SAMPLE_SIDE,
    contact_sheet,
    save_contact_sheet,
)
from train.data.digits import load_digits_8x8
from train.data.splits import Dataset

SHAPES = pictures.shapes()


def drawn(dataset: Dataset) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(contact_sheet(dataset))).convert("L"))


def first_sample(sheet: UInt8Array, row: int) -> UInt8Array:
    """The sample at the left of a row, uint8 `(56, 56)`."""
    width = COLUMNS * (SAMPLE_SIDE + 2)
    top, left = HEADING + row * (SAMPLE_SIDE + ROW_GAP), sheet.shape[1] - MARGIN - width
    return sheet[top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE]


def test_every_class_has_a_row_of_its_own_samples() -> None:
    sheet = drawn(SHAPES)

    assert sheet.shape[0] == HEADING + 3 * SAMPLE_SIDE + 2 * ROW_GAP + MARGIN
    for label in range(3):
        images = SHAPES.train.images[SHAPES.train.labels == label]
        assert first_sample(sheet, label)[::2, ::2].tobytes() in {
            image.tobytes() for image in images
        }


def test_images_of_8x8_are_enlarged_and_as_bright_as_others() -> None:
    sample = first_sample(drawn(load_digits_8x8()), 0)

    np.testing.assert_array_equal(sample, sample[::7, ::7].repeat(7, axis=0).repeat(7, axis=1))
    assert (sample.min(), sample.max()) == (0, 255)


def test_names_stand_beside_the_rows_whatever_they_are_written_in() -> None:
    names = (
        "$x^2$ & <b>",
        "ブーツ",
        "a name that is much longer than what has room beside the samples",
    )
    plain, named = drawn(SHAPES), drawn(replace(SHAPES, class_names=names))

    assert named.shape[1] > plain.shape[1]
    for sheet in (plain, named):
        for row in range(3):
            top = HEADING + row * (SAMPLE_SIDE + ROW_GAP)
            assert (sheet[top : top + SAMPLE_SIDE, MARGIN : MARGIN + 60] < 128).sum() > 10


def test_the_same_data_set_gives_the_same_sheet() -> None:
    assert contact_sheet(SHAPES) == contact_sheet(SHAPES)


def test_a_class_with_few_images_leaves_the_rest_of_its_row_white() -> None:
    few = replace(SHAPES, train=SHAPES.train.take(np.arange(6)))
    sheet = drawn(few)

    assert (sheet[HEADING : HEADING + SAMPLE_SIDE, -MARGIN - 3 * SAMPLE_SIDE :] == 255).all()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match=rf"{tmp_path}/nowhere/sheet\.png") as raised:
        save_contact_sheet(SHAPES, tmp_path / "nowhere" / "sheet.png")

    assert raised.value.code == "file_not_writable"
