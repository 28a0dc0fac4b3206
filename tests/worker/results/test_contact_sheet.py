"""Contact sheets: every image at its place, and words that some font can write."""

import io
from base64 import b64encode

import numpy as np
import pytest
from PIL import Image

from loupe.images.spec import UInt8Array
from tests.support import pictures
from worker.results import contact_sheet
from worker.results.contact_sheet import ABOVE, ACROSS, BELOW, GAP, HEADING, MARGIN, SIDE, draw
from worker.results.statistics import Tile

IMAGES = pictures.digits(40)
CLASSES = ("boot", "ブーツ", "Ärmel")


def tile(place: int, best: int = 0, confidence: float = 0.5, name: str = "a.png") -> Tile:
    return Tile(0.0, name, best, confidence, b64encode(IMAGES[place].tobytes()).decode())


def drawn(
    *tiles: Tile, class_names: tuple[str, ...] = CLASSES, threshold: float | None = None
) -> UInt8Array:
    return np.asarray(
        Image.open(io.BytesIO(draw("title", tiles, class_names, threshold))).convert("L")
    )


@pytest.fixture
def plain_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any fonts."""
    monkeypatch.setattr(contact_sheet, "FALLBACKS", ())
    contact_sheet._fonts.cache_clear()


@pytest.mark.parametrize("count", [1, 6, 7, 36])
def test_every_image_stands_at_its_place_as_the_model_saw_it(count: int) -> None:
    sheet = drawn(*map(tile, range(count)))

    for number in range(count):
        left = MARGIN + number % ACROSS * (SIDE + GAP)
        top = MARGIN + HEADING + number // ACROSS * (ABOVE + SIDE + BELOW) + ABOVE
        seen = sheet[top : top + SIDE : SIDE // 28, left : left + SIDE : SIDE // 28]
        np.testing.assert_array_equal(seen, IMAGES[number])
    assert sheet.shape[0] == 2 * MARGIN + HEADING + -(-count // ACROSS) * (ABOVE + SIDE + BELOW)


def test_label_confidence_and_name_stand_at_the_image() -> None:
    others = [tile(0, best=2), tile(0, confidence=0.6), tile(0, name="b.png")]

    assert len({drawn(each).tobytes() for each in [tile(0), *others]}) == 4
    assert drawn(tile(0, name="deep/er/a.png")).tobytes() == drawn(tile(0)).tobytes()


def test_a_label_that_is_not_given_has_a_question_mark() -> None:
    unsure = drawn(tile(0, confidence=0.5), threshold=0.6)

    np.testing.assert_array_equal(unsure, drawn(tile(0), class_names=("? boot", "", "")))
    np.testing.assert_array_equal(
        drawn(tile(0, confidence=0.6), threshold=0.6), drawn(tile(0, confidence=0.6))
    )


@pytest.mark.usefixtures("plain_fonts")
def test_a_label_that_no_font_can_write_is_a_number() -> None:
    np.testing.assert_array_equal(
        drawn(tile(0, best=1)), drawn(tile(0, best=1), class_names=("", "#1", ""))
    )


@pytest.mark.parametrize(
    "text", ["", "line\nbreak", "a name that is much longer than a tile is wide", "x" * 5000, "\0"]
)
def test_any_name_can_be_drawn(text: str) -> None:
    shape = drawn(tile(0)).shape

    assert drawn(tile(0, name=text), class_names=(text, "", "")).shape == shape
