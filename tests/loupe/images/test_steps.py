"""The steps that normalizing reports."""

import numpy as np
import pytest

from loupe.images.decode import open_picture
from loupe.images.normalize import normalize_pixels
from loupe.images.pool import DecoderPool
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.images.steps import Step, recording
from tests.support import pictures
from train.data.datasets import load_dataset
from train.evaluate.robustness.handwriting import blank, draw

INK = ImageSpec("ink", single=True)
DIGIT = normalize_pixels(load_dataset("digits-8x8").test.images[3], INK)


def steps_of(picture: UInt8Array, spec: ImageSpec) -> list[str]:
    steps: list[Step] = []
    with recording(steps):
        normalize_pixels(picture, spec)
    assert all(step.text for step in steps)
    return [step.step for step in steps]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("plain", {"inverted", "cropped", "resized", "centred"}),
        ("ruled", {"inverted", "lines_removed", "centred"}),
        ("shading 60 %", {"light_evened", "inverted", "centred"}),
        ("grain", {"smoothed", "inverted", "centred"}),
        ("specks", {"inverted", "specks_removed", "centred"}),
        ("table", {"cut_to_sheet", "inverted", "centred"}),
        ("one pixel", {"inverted", "strokes_thickened", "centred"}),
    ],
)
def test_ink_reports_what_was_removed_and_changed(kind: str, expected: set[str]) -> None:
    picture = draw(kind, DIGIT, np.random.default_rng(1))

    assert expected <= set(steps_of(picture, INK))


def test_light_ink_on_a_dark_ground_is_not_inverted() -> None:
    light = 255 - draw("plain", DIGIT, np.random.default_rng(1))

    assert "inverted" not in steps_of(light, INK)


def test_blank_picture_says_so() -> None:
    assert "blank" in steps_of(blank("plain", np.random.default_rng(0)), INK)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (ImageSpec("object"), ["inverted", "resized", "padded"]),
        (ImageSpec("photo", fit="crop"), ["cropped", "resized"]),
        (ImageSpec("photo", fit="stretch"), ["resized"]),
        (ImageSpec("photo", fit="pad"), ["resized", "padded"]),
    ],
    ids=lambda each: each.fit if isinstance(each, ImageSpec) else None,
)
def test_objects_and_photos_report_inversion_and_size(spec: ImageSpec, expected: list[str]) -> None:
    assert steps_of(np.full((100, 60), 250, np.uint8), spec) == expected


def test_image_that_stays_as_it_is_has_no_steps() -> None:
    assert steps_of(DIGIT, ImageSpec("ink")) == []
    assert steps_of(255 - DIGIT, INK)[:1] == ["inverted"]


def test_steps_are_the_same_from_a_decoder_process() -> None:
    picture = pictures.png(draw("specks", DIGIT, np.random.default_rng(1)))
    here: list[Step] = []
    there: list[Step] = []
    expected = open_picture(picture, max_pixels=10**6).pixels(INK, steps=here)
    pool = DecoderPool(1, 10)
    try:
        seen = pool.decode(picture, INK, 10**6, steps=there)
        again = pool.decode(picture, INK, 10**6)
    finally:
        pool.close()

    assert here == there != []
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_array_equal(again, expected)
