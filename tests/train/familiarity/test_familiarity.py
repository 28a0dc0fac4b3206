"""Familiarity: the output of a real model, and the layers that it is computed from."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.certainty import DISTANCE, LEVEL, Familiarity
from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import load_engine
from loupe.models.store import ONNX_FILE, StoredModel
from tests.support import onnx_models
from train.data.datasets import load_dataset
from train.familiarity.fitting import MIN_IMAGES, add_familiarity
from train.familiarity.graph import find_layers

NOISE = np.random.default_rng(0).integers(0, 256, (200, 28, 28), np.uint8)


def familiarity(engine: Engine, images: UInt8Array) -> Float32Array:
    return engine.run(images).familiarity


def test_test_images_are_familiar_and_noise_is_not(engine: Engine) -> None:
    known = familiarity(engine, load_dataset("digits").test.images)
    foreign = familiarity(engine, NOISE)

    assert known.dtype == np.float32
    assert ((known >= 0) & (known <= 1)).all()
    assert np.mean(known < LEVEL) < 0.05
    assert np.mean(foreign < LEVEL) > 0.9
    assert 0.3 < known.mean() < 0.7  # uniform on images like the validation images


def test_familiarity_leaves_the_probabilities_as_they_are(
    engine: Engine, digits_model: StoredModel
) -> None:
    images = NOISE[:50]
    session = ort.InferenceSession(digits_model.folder / ONNX_FILE)

    assert [each.name for each in session.get_outputs()][1:2] == [DISTANCE]
    np.testing.assert_array_equal(engine.run(images).probabilities, engine.predict(images))


def test_familiarity_of_an_image_does_not_depend_on_its_batch(engine: Engine) -> None:
    alone = np.concatenate([familiarity(engine, image[None]) for image in NOISE[:20]])

    np.testing.assert_allclose(alone, familiarity(engine, NOISE[:20]), atol=1e-4)
    assert familiarity(engine, NOISE[:0]).shape == (0,)


def test_a_model_of_few_images_and_the_engine_of_tensorflow_know_no_familiarity(
    shapes_model: StoredModel, digits_model: StoredModel
) -> None:
    assert shapes_model.card.familiarity is None
    for unknown in (load_engine(shapes_model), load_engine(digits_model, "tensorflow")):
        assert unknown.familiarity is None
        assert np.isnan(familiarity(unknown, NOISE[:2])).all()


@pytest.mark.parametrize("opset", [9, 13, 18])
def test_onnx_models_of_old_and_new_opsets_get_the_output(tmp_path: Path, opset: int) -> None:
    path = onnx_models.convolution(
        tmp_path / "m.onnx", shape=("n", 1, 28, 28), tail=["Softmax"], opset=opset
    )
    images: Any = NOISE[:, np.newaxis].astype(np.float32)
    before = ort.InferenceSession(path).run(None, {"pixels": images})[0]
    known = add_familiarity(path, images[:MIN_IMAGES], images[:MIN_IMAGES])
    session = ort.InferenceSession(path)
    after, distances, features = session.run(None, {"pixels": images})

    np.testing.assert_array_equal(after, before)
    assert distances.shape == (len(images),)
    assert len(features) == len(images)
    assert known is not None
    shares = known.of(distances[:MIN_IMAGES])
    np.testing.assert_allclose(shares.mean(), 0.5, atol=0.02)


def test_a_model_without_a_last_dense_layer_stays_as_it_is(tmp_path: Path) -> None:
    path = onnx_models.single(
        tmp_path / "m.onnx", "Softmax", [(TensorProto.FLOAT, ["n", 3])], ["n", 3]
    )
    before = path.read_bytes()

    assert find_layers(onnx.load_model(path)) is None
    assert add_familiarity(path, NOISE, NOISE) is None
    assert path.read_bytes() == before


def test_distances_become_shares_of_validation_images() -> None:
    known = Familiarity(distances=(0.0, 1.0, 3.0), images=300)

    shares = known.of(np.array([-1, 0, 0.5, 1, 2, 3, 9, np.nan], np.float32))
    np.testing.assert_allclose(shares, [1, 1, 0.75, 0.5, 0.25, 0, 0, np.nan])
