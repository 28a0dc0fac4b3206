"""The nearest training pictures: which are kept, and which are found."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import load_engine
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.explaining.nearest import (
    COUNT,
    FILE_NAME,
    MAX_BYTES,
    MAX_REFERENCES,
    Neighbours,
    References,
)
from loupe.models.store import ONNX_FILE, StoredModel
from train.data.datasets import load_dataset


def copy_of(model: StoredModel, folder: Path) -> StoredModel:
    shutil.copytree(model.folder, folder)
    return dataclasses.replace(model, folder=folder)


def test_a_training_picture_is_most_like_itself(digits_model: StoredModel, engine: Engine) -> None:
    known = References.load(digits_model)
    assert known is not None
    found = Neighbours(digits_model, engine).of(known.images[7])

    assert found is not None
    assert len(found) == COUNT
    np.testing.assert_array_equal(found[0].image, known.images[7])
    assert found[0].index == known.labels[7]
    assert found[0].similarity == pytest.approx(1, abs=1e-3)
    assert found[0].similarity >= found[1].similarity >= found[2].similarity


def test_pictures_of_the_same_class_are_near(digits_model: StoredModel, engine: Engine) -> None:
    test = load_dataset("digits").test
    near = [Neighbours(digits_model, engine).of(image) or [] for image in test.images[:50]]

    right = [
        each.index == label
        for found, label in zip(near, test.labels[:50], strict=True)
        for each in found
    ]
    assert len(right) == 50 * COUNT
    assert np.mean(right) > 0.85


def test_references_are_bounded_and_of_all_classes(engine: Engine) -> None:
    train = load_dataset("digits").train
    order = np.argsort(train.labels, kind="stable")
    many = np.tile(order, 5)
    known = References.of(engine, train.images[np.sort(many)], train.labels[np.sort(many)])

    assert 1_000 < len(known.images) <= MAX_REFERENCES
    assert known.images.nbytes + 2 * known.features.size <= MAX_BYTES
    assert set(known.labels.tolist()) == set(range(10))


def test_models_without_references_have_no_neighbours(
    digits_model: StoredModel, shapes_model: StoredModel, engine: Engine, tmp_path: Path
) -> None:
    old = copy_of(digits_model, tmp_path / "old")
    (old.folder / FILE_NAME).unlink()
    image = np.zeros((28, 28), np.uint8)

    assert Neighbours(old, engine).of(image) is None
    assert Neighbours(shapes_model, load_engine(shapes_model)).of(image) is None
    assert Neighbours(digits_model, load_engine(digits_model, "tensorflow")).of(image) is None


@pytest.mark.parametrize("damage", ["cut", "other size", "other classes", "pickle"])
def test_damaged_references_are_reported_and_not_used(
    digits_model: StoredModel,
    engine: Engine,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    model = copy_of(digits_model, tmp_path / "damaged")
    path = model.folder / FILE_NAME
    with np.load(path) as file:
        arrays = dict(file)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    elif damage == "other size":
        np.savez(path, **arrays | {"images": arrays["images"][:, :14]})
    elif damage == "other classes":
        np.savez(path, **arrays | {"labels": arrays["labels"] + 5})
    else:
        np.savez(path, **arrays | {"labels": arrays["labels"].astype(object)})

    assert Neighbours(model, engine).of(arrays["images"][0]) is None
    assert FILE_NAME in caplog.text


def test_features_are_what_the_onnx_file_puts_out(digits_model: StoredModel) -> None:
    engine = OnnxEngine(digits_model.folder / ONNX_FILE, digits_model.card.input, 1)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)

    assert engine.has_features
    assert engine.features(images).shape[0] == 3
    assert engine.features(images).dtype == np.float32
