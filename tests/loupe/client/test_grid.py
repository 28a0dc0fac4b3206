"""The grid of predictions: a tile for each picture, and words that a font can write."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe import drawing as fonts
from loupe.client.grid import DPI, FOOT, GAP, HEAD, MARGIN, SIDE, Tile, columns, draw
from loupe.client.predictions import Prediction, PredictionError
from loupe.images.spec import UInt8Array

RED = (200, 30, 30)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "red.png"
    Image.new("RGB", (40, 20), RED).save(file)
    return file


@pytest.fixture
def plain_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without fonts for Japanese."""
    monkeypatch.setattr(fonts, "CJK_FONTS", ())
    for cached in (fonts.families, fonts._letters):
        cached.cache_clear()
    yield
    for cached in (fonts.families, fonts._letters):
        cached.cache_clear()


def drawn(*tiles: Tile) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(draw(tiles))).convert("RGB"))


def tile(grid: UInt8Array, number: int) -> UInt8Array:
    """The square of a tile in a row."""
    left, top, side = (
        round(inches * DPI) for inches in (MARGIN + number * (SIDE + GAP), MARGIN + HEAD, SIDE)
    )
    return grid[top + 2 : top + side - 2, left + 2 : left + side - 2]


def test_every_picture_has_its_place_in_its_colours_and_proportions(file: Path) -> None:
    prediction = Prediction("m:1", "red", 0, 0.8, {"red": 0.8})
    grid = drawn(
        Tile.of(file, prediction),
        Tile.of(file, PredictionError("invalid_image", "x")),
        Tile.of(file, prediction),
    )

    for number in range(3):
        reds = (np.abs(tile(grid, number).astype(int) - RED).sum(axis=2) < 30).mean()
        assert reds == pytest.approx(0.5, abs=0.03)  # it is half as high as it is wide


def test_what_cannot_be_shown_leaves_an_empty_tile(file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("socks")
    grid = drawn(
        *(
            Tile(path, None, None, None)
            for path in (file, tmp_path / "notes.txt", tmp_path / "nowhere")
        )
    )

    for number in (1, 2):
        assert len(np.unique(tile(grid, number).reshape(-1, 3), axis=0)) == 1


def test_label_and_confidence_stand_above(file: Path) -> None:
    def above(label: str, confidence: float) -> bytes:
        return drawn(Tile(file, label, 1, confidence))[: round((MARGIN + HEAD) * DPI) - 2].tobytes()

    assert len({above("boot", 0.5), above("bag", 0.5), above("boot", 0.6)}) == 3


@pytest.mark.parametrize(
    "label", ["$x^2$", "a name that is much longer than a tile is wide", "", "line\nbreak", "{"]
)
def test_any_label_can_be_drawn(file: Path, label: str) -> None:
    assert drawn(Tile(file, label, 1, 0.5)).shape == drawn(Tile(file, "a", 1, 0.5)).shape


@pytest.mark.usefixtures("plain_fonts")
def test_a_label_that_no_font_can_write_is_a_number(file: Path) -> None:
    assert fonts.unwritable(["ブーツ", "boot", "ブーツ"]) == ["ブーツ"]
    np.testing.assert_array_equal(
        drawn(Tile(file, "ブーツ", 9, 0.5)), drawn(Tile(file, "#9", 9, 0.5))
    )


@pytest.mark.parametrize(
    ("tiles", "across"), [(1, 1), (5, 5), (6, 6), (7, 6), (36, 6), (37, 7), (100, 10)]
)
def test_rows_are_six_wide_until_there_are_many(tiles: int, across: int) -> None:
    assert columns(tiles) == across


def test_the_grid_is_as_high_as_its_rows(file: Path) -> None:
    rows = [drawn(*[Tile(file, "a", 0, 0.5)] * count).shape[0] for count in (1, 7)]

    assert rows[1] - rows[0] == pytest.approx((HEAD + SIDE + FOOT) * DPI, abs=1)
