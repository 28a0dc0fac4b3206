"""Answers to disturbed pictures, and the sentences about them."""

from dataclasses import replace

import numpy as np
import pytest

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from tests.support import pictures
from train.data.datasets import load_dataset
from train.evaluate.robustness import measuring
from train.evaluate.robustness.corruptions import CORRUPTIONS
from train.evaluate.robustness.handwriting import KINDS
from train.evaluate.robustness.measuring import PHRASES, Disturbance, limits, measure

CLEAN = Disturbance("none", "test", 100, 0.97, 0.0, 0.0)


def test_all_kinds_have_a_phrase() -> None:
    assert set(PHRASES) == {*KINDS, *CORRUPTIONS}


def test_ink_is_disturbed_in_all_ways_by_the_same_images_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "FEWEST", 20)
    monkeypatch.setattr(measuring, "MOST", 20)
    dataset = load_dataset("digits")
    test = replace(dataset.test, images=dataset.test.images[:20], labels=dataset.test.labels[:20])
    known = {image.tobytes(): label for image, label in zip(test.images, test.labels, strict=True)}
    seen: list[UInt8Array] = []

    def predict(images: UInt8Array) -> Float32Array:
        """Return the class of the images that were not changed, and 0 for all others, surely."""
        seen.append(images)
        return np.eye(10, dtype=np.float32)[[known.get(image.tobytes(), 0) for image in images]]

    rows = measure(test, dataset.spec, predict)

    assert [row.kind for row in rows] == ["none", *KINDS, *CORRUPTIONS]
    assert {row.images for row in rows} == {20}
    assert (rows[0].accuracy, rows[0].surely_wrong, rows[0].unanswered) == (1, 0, 0)
    share = float((test.labels == 0).mean())
    zigzag = next(row for row in rows if row.kind == "zigzag")
    assert zigzag.accuracy <= share
    assert zigzag.accuracy + zigzag.surely_wrong + zigzag.unanswered == pytest.approx(1)
    assert measure(test, dataset.spec, predict) == rows
    np.testing.assert_array_equal(seen[0], seen[1])


def test_objects_are_disturbed_pixel_by_pixel() -> None:
    def predict(images: UInt8Array) -> Float32Array:
        return np.full((len(images), 3), 1 / 3, np.float32)

    rows = measure(pictures.shapes().test, ImageSpec("object"), predict)

    assert [row.kind for row in rows] == ["none", *CORRUPTIONS]
    assert all(row.surely_wrong == row.unanswered == 0 for row in rows)


def test_every_kind_is_in_one_group_by_its_loss() -> None:
    well = replace(CLEAN, kind="frame", accuracy=0.95)
    worse = replace(CLEAN, kind="grain", accuracy=0.9)
    badly = replace(CLEAN, kind="stripe", accuracy=0.4, surely_wrong=0.5)
    empty = replace(CLEAN, kind="pencil", accuracy=0.75, unanswered=0.25)
    sentences = limits([CLEAN, well, worse, badly, empty])

    assert len(sentences) == 5
    assert [PHRASES["frame"] in each for each in sentences] == [True, False, False, False, False]
    assert [PHRASES["grain"] in each for each in sentences] == [False, True, False, False, False]
    assert [PHRASES["stripe"] in each for each in sentences] == [False, False, True, True, False]
    assert [PHRASES["pencil"] in each for each in sentences] == [False, False, True, False, True]


def test_there_are_no_limits_without_measurements() -> None:
    assert limits([]) == []
