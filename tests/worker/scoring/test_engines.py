"""Models at hand in a worker: few, the right ones, and whole."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import ModelCorrupted, ModelNotFound
from loupe.models.card import FILE_NAME, digest
from loupe.models.engines.engine import Engine
from loupe.models.store import ONNX_FILE, StoredModel
from tests.support import pictures
from tests.support.stores import copied, damage
from worker.scoring.engines import MAX_ENGINES, Engines


def card_digest(model: StoredModel) -> str:
    return digest(model.folder / FILE_NAME)


def test_a_model_is_loaded_once(digits_model: StoredModel, engine: Engine) -> None:
    engines = Engines("onnx")
    model, first = engines.get(digits_model.tag, card_digest(digits_model))
    _, second = engines.get(digits_model.tag, card_digest(digits_model))

    assert model.tag == digits_model.tag
    assert first is second
    np.testing.assert_allclose(
        first.predict(pictures.digits(9)), engine.predict(pictures.digits(9)), atol=1e-5
    )


def test_least_recently_used_model_is_unloaded(store: Path, digits_model: StoredModel) -> None:
    models = [
        copied(digits_model, store, f"letters:{version}") for version in range(MAX_ENGINES + 1)
    ]
    engines = Engines("onnx")

    def engine_of(model: StoredModel) -> Engine:
        return engines.get(model.tag, card_digest(model))[1]

    loaded = [engine_of(model) for model in models[:MAX_ENGINES]]
    engine_of(models[0])
    engine_of(models[-1])

    assert engine_of(models[0]) is loaded[0]
    assert engine_of(models[1]) is not loaded[1]


def test_a_model_with_a_damaged_file_is_not_loaded(store: Path, digits_model: StoredModel) -> None:
    model = copied(digits_model, store)
    damage(model.folder / ONNX_FILE)

    with pytest.raises(ModelCorrupted, match=r"model\.onnx is not the file that was saved"):
        Engines("onnx").get(model.tag, card_digest(model))


def test_a_model_that_is_not_the_one_asked_for_is_refused(digits_model: StoredModel) -> None:
    with pytest.raises(ModelCorrupted, match=r"card\.json"):
        Engines("onnx").get(digits_model.tag, "0" * 64)


def test_model_deleted_after_loading_is_not_found(store: Path, digits_model: StoredModel) -> None:
    model = copied(digits_model, store)
    engines, expected = Engines("onnx"), card_digest(model)
    engines.get(model.tag, expected)
    shutil.rmtree(model.folder)

    with pytest.raises(ModelNotFound, match=f"There is no model '{model.tag}'"):
        engines.get(model.tag, expected)
