"""Sheets of tiles: every picture in its place, and text that some font can write."""

import io
from collections.abc import Iterator

import numpy as np
import pytest
from matplotlib.font_manager import fontManager
from PIL import Image

from loupe import drawing
from loupe.drawing import (
    INK,
    LARGE,
    MARGIN,
    PADDING,
    Bar,
    Text,
    Tile,
    TileSheet,
    families,
    legible,
    unwritable,
)
from loupe.images.spec import UInt8Array
from tests.support import pictures

IMAGES = pictures.digits(40)


@pytest.fixture
def plain_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Simulate a machine with no fonts except Pillow's own."""
    caches = (drawing._fonts, drawing._font_paths)
    monkeypatch.setattr(drawing, "FONT_FILES", ())
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def drawn(sheet: TileSheet) -> UInt8Array:
    """Decode the sheet as uint8 `(height, width, 3)`."""
    image = np.asarray(Image.open(io.BytesIO(sheet.png())).convert("RGB"))
    assert image.shape == (sheet.size[1], sheet.size[0], 3)
    return image


def picture(sheet: TileSheet, number: int) -> UInt8Array:
    """Cut one tile's picture out of the drawn sheet."""
    left, top = sheet.origin(number)
    return drawn(sheet)[top : top + sheet.side, left : left + sheet.side]


@pytest.mark.parametrize("count", [1, 6, 7, 36])
def test_every_picture_is_drawn_in_its_place_pixel_by_pixel(count: int) -> None:
    caption = (Text("label", LARGE, INK), Text("0.9"))
    tiles = [Tile(image, caption, caption) for image in IMAGES[:count]]
    sheet = TileSheet(tiles, 6, title=(Text("title", LARGE),), row_titles=[caption] * 6)

    for number in range(count):
        seen = picture(sheet, number)[::4, ::4, 0]
        np.testing.assert_array_equal(seen, IMAGES[number])


def test_colours_and_proportions_are_kept() -> None:
    red = np.full((20, 40, 3), (200, 30, 30), np.uint8)
    seen = picture(TileSheet([Tile(IMAGES[0]), Tile(red)], 2), 1)

    reds = (np.abs(seen.astype(int) - (200, 30, 30)).sum(axis=2) < 30).mean()
    assert reds == pytest.approx(0.5, abs=0.03)


def test_pairs_are_side_by_side_in_every_tile() -> None:
    tiles = [
        Tile(image, beside=other) for image, other in zip(IMAGES[:4], IMAGES[4:8], strict=True)
    ]
    sheet = TileSheet(tiles, 2)

    for number in range(4):
        left, top = sheet.origin(number)
        both = drawn(sheet)[
            top : top + sheet.side : 4, left : left + 2 * sheet.side + PADDING : 4, 0
        ]
        np.testing.assert_array_equal(both[:, :28], IMAGES[number])
        np.testing.assert_array_equal(both[:, -28:], IMAGES[number + 4])


def test_bars_are_as_long_as_their_shares() -> None:
    def blues(share: float) -> int:
        sheet = drawn(TileSheet([Tile(IMAGES[0], bars=[Bar("a", share)])], 1)).astype(int)
        return int((np.abs(sheet - (43, 108, 176)).sum(axis=2) < 30).sum())

    full = blues(1)
    assert [blues(share) / full for share in (0, 0.25, 0.5, 7)] == pytest.approx(
        [0, 0.25, 0.5, 1], abs=0.03
    )


def test_large_picture_is_reduced_to_the_tile() -> None:
    seen = picture(TileSheet([Tile(np.full((900, 900), 7, np.uint8))], 1), 0)

    assert (seen == 7).all()


@pytest.mark.parametrize("shape", [(1, 9000), (9000, 1)])
def test_thin_picture_is_drawn(shape: tuple[int, int]) -> None:
    seen = picture(TileSheet([Tile(np.full(shape, 7, np.uint8))], 1), 0)

    assert (seen == 7).any()


def test_empty_tile_is_plain_and_missing_tile_is_white() -> None:
    sheet = TileSheet([Tile(None), None, Tile(IMAGES[0])], 3)

    assert len(np.unique(picture(sheet, 0).reshape(-1, 3), axis=0)) == 1
    assert (picture(sheet, 1) == 255).all()


def test_title_captions_and_row_titles_are_written() -> None:
    def sheet(title: str = "a", above: str = "b", below: str = "c", row: str = "d") -> bytes:
        tile = Tile(IMAGES[0], (Text(above, LARGE, INK),), (Text(below),))
        return TileSheet([tile], 1, title=[Text(title)], row_titles=[[Text(row)]]).png()

    sheets = [sheet(), sheet(title="x"), sheet(above="x"), sheet(below="x"), sheet(row="x")]
    assert len(set(sheets)) == 5
    assert sheet() == sheet()


@pytest.mark.parametrize(
    "label",
    [
        "$x^2$",
        "a name that is much longer than a tile is wide",
        "",
        "line\nbreak",
        "{",
        "\u202eback\x1b[2J",
    ],
)
def test_any_text_can_be_written_without_changing_the_layout(label: str) -> None:
    sheets = [TileSheet([Tile(IMAGES[0], [Text(text)])], 1) for text in (label, "a")]

    assert drawn(sheets[0]).shape == drawn(sheets[1]).shape
    titled = TileSheet([Tile(IMAGES[0])], 1, title=[Text(label)], row_titles=[[Text(label)]])
    assert drawn(titled).any()


def test_long_text_is_cut_at_the_edge_of_the_tile() -> None:
    long = drawn(TileSheet([Tile(IMAGES[0], [Text("W" * 99)]), Tile(None)], 2, gap=40))
    right = MARGIN + 112 + 20

    assert (long[: MARGIN + 10, right : right + 40] == 255).all()


@pytest.mark.usefixtures("plain_fonts")
def test_unwritable_names_are_replaced_by_their_index() -> None:
    assert unwritable(["ブーツ", "boot", "ブーツ"]) == ["ブーツ"]
    assert [legible(name, 9) for name in ("ブーツ", "", "boot")] == ["#9", "#9", "boot"]


def test_matplotlib_learns_of_fonts_installed_after_its_first_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fontManager, "ttflist", [])
    names = families.__wrapped__()  # not its cached answer

    assert names[0] == "DejaVu Sans"
    assert set(names) == {font.name for font in fontManager.ttflist}
