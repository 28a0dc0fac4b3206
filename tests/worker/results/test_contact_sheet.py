"""Contact sheets: images, labels, confidences and names."""

import io
from base64 import b64encode
from functools import partial

import numpy as np
import pytest
from PIL import Image

from loupe.drawing import TileSheet
from loupe.images.spec import UInt8Array
from tests.support import pictures
from worker.results import contact_sheet
from worker.results.contact_sheet import draw
from worker.results.statistics import ScoredImage

IMAGES = pictures.digits(40)
CLASSES = ("boot", "bag", "Ärmel")


def scored(number: int, best: int = 0, confidence: float = 0.5, name: str = "a.png") -> ScoredImage:
    data = b64encode(IMAGES[number].tobytes()).decode()
    return ScoredImage(0.0, name, best, confidence, data)


def drawn(
    *images: ScoredImage,
    class_names: tuple[str, ...] = CLASSES,
    threshold: float | None = None,
    originals: dict[str, UInt8Array] | None = None,
) -> UInt8Array:
    png = draw("title", images, class_names, threshold, originals or {})
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


@pytest.mark.parametrize("count", [1, 6, 7, 36])
def test_every_image_is_drawn_as_the_model_saw_it(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets: list[TileSheet] = []

    def remember(*arguments: object, **options: object) -> TileSheet:
        sheets.append(TileSheet(*arguments, **options))  # type: ignore[arg-type]
        return sheets[-1]

    monkeypatch.setattr(contact_sheet, "TileSheet", remember)
    sheet = drawn(*map(scored, range(count)))

    step = sheets[0].side // 28
    for number in range(count):
        left, top = sheets[0].origin(number)
        seen = sheet[top : top + 28 * step : step, left : left + 28 * step : step]
        np.testing.assert_array_equal(seen, IMAGES[number])


def test_originals_are_shown_unless_the_model_saw_them_unchanged() -> None:
    plain = drawn(scored(0))
    original = np.full((60, 90, 3), 250, np.uint8)
    unchanged = np.repeat(IMAGES[0][..., None], 3, axis=2)

    pair = drawn(scored(0), originals={"a.png": original})
    assert pair.shape[1] > plain.shape[1]
    assert drawn(scored(0), originals={"b.png": original}).tobytes() == plain.tobytes()
    assert drawn(scored(0), originals={"a.png": unchanged}).tobytes() == plain.tobytes()


def test_label_confidence_and_name_are_written_at_the_image() -> None:
    others = [scored(0, best=2), scored(0, confidence=0.6), scored(0, name="b.png")]

    assert len({drawn(each).tobytes() for each in [scored(0), *others]}) == 4
    assert drawn(scored(0, name="deep/er/a.png")).tobytes() == drawn(scored(0)).tobytes()


def test_label_below_the_threshold_gets_a_question_mark() -> None:
    unsure = drawn(scored(0, confidence=0.5), threshold=0.6)

    np.testing.assert_array_equal(unsure, drawn(scored(0), class_names=("? boot", "", "")))
    np.testing.assert_array_equal(
        drawn(scored(0, confidence=0.6), threshold=0.6), drawn(scored(0, confidence=0.6))
    )


def test_label_without_a_glyph_becomes_the_class_index() -> None:
    unwritable = partial(drawn, scored(0, best=1))

    np.testing.assert_array_equal(
        unwritable(class_names=("", "\U000f0000", "")), unwritable(class_names=("", "#1", ""))
    )


@pytest.mark.parametrize(
    "text", ["", "line\nbreak", "a name that is much longer than a tile is wide", "x" * 5000, "\0"]
)
def test_any_name_can_be_drawn(text: str) -> None:
    shape = drawn(scored(0)).shape

    assert drawn(scored(0, name=text), class_names=(text, "", "")).shape == shape
