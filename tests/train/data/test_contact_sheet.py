"""The contact sheet: every class has a row with its own samples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.drawing import INK
from loupe.errors import NotWritable
from loupe.images.spec import UInt8Array
from tests.support import pictures
from train.data.contact_sheet import COLUMNS, SAMPLE_SIDE, contact_sheet, save_contact_sheet
from train.data.digits import load_digits
from train.data.splits import Dataset

SHAPES = pictures.shapes()


def first_sample(dataset: Dataset, row: int, path: Path) -> UInt8Array:
    """Return the first sample of a row as it is drawn, uint8 `(56, 56)`."""
    save_contact_sheet(dataset, path)
    left, top = contact_sheet(dataset).origin(row * COLUMNS)
    sheet = np.asarray(Image.open(path).convert("L"))
    return sheet[top : top + SAMPLE_SIDE, left : left + SAMPLE_SIDE]


def test_every_class_has_a_row_of_samples(tmp_path: Path) -> None:
    for label in range(3):
        images = SHAPES.train.images[SHAPES.train.labels == label]
        sample = first_sample(SHAPES, label, tmp_path / "sheet.png")
        assert sample[::2, ::2].tobytes() in {image.tobytes() for image in images}


def test_images_of_8x8_are_enlarged_and_use_the_full_range(tmp_path: Path) -> None:
    sample = first_sample(load_digits("digits-8x8"), 0, tmp_path / "sheet.png")

    np.testing.assert_array_equal(sample, sample[::7, ::7].repeat(7, axis=0).repeat(7, axis=1))
    assert (int(sample.min()), int(sample.max())) == (0, 255)


def test_rows_have_the_class_name_and_its_count() -> None:
    named = replace(SHAPES, class_names=("$x^2$ & <b>", "ブーツ", "x" * 200))

    rows = contact_sheet(named).row_titles
    assert [row[0].words for row in rows] == list(named.class_names)
    assert [row[0].colour for row in rows] == [INK] * 3
    counts = named.train.counts(named.class_names).values()
    assert [row[1].words for row in rows] == [str(count) for count in counts]
    assert contact_sheet(named).png()


def test_the_same_data_set_gives_the_same_sheet() -> None:
    assert contact_sheet(SHAPES).png() == contact_sheet(SHAPES).png()


def test_a_class_with_few_images_leaves_the_rest_of_its_row_blank() -> None:
    few = replace(SHAPES, train=SHAPES.train.take(np.arange(6)))
    tiles = contact_sheet(few).tiles

    counts = few.train.counts(few.class_names).values()
    for row, count in enumerate(counts):
        blank = [tile is None for tile in tiles[row * COLUMNS : (row + 1) * COLUMNS]]
        assert blank == [False] * count + [True] * (COLUMNS - count)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotWritable, match=rf"{tmp_path}/nowhere/sheet\.png") as raised:
        save_contact_sheet(SHAPES, tmp_path / "nowhere" / "sheet.png")

    assert raised.value.code == "file_not_writable"
