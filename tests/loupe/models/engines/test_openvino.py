"""OpenVINO in bfloat16 gives nearly the answers of ONNX Runtime, or is refused."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import MAX_DIFFERENCE, check_exactness, load_engine
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.engines.openvino import OpenvinoEngine
from loupe.models.store import ONNX_FILE, StoredModel
from tests.support import pictures
from tests.support.command import Loupe
from train.data.datasets import load_dataset

CLOSE = 0.03  # of probabilities; bfloat16 has eight significant bits


@pytest.fixture(scope="module")
def quick(digits_model: StoredModel) -> Engine:
    try:
        return load_engine(digits_model, "openvino", threads=1)
    except ProgramFailed as error:
        pytest.skip(error.message)


def test_answers_are_close_to_those_of_onnx(quick: Engine, engine: Engine) -> None:
    images = np.concatenate([pictures.digits(300), load_dataset("digits").test.images])
    found, expected = quick.run(images), engine.run(images)

    assert found.probabilities.dtype == found.familiarity.dtype == np.float32
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=CLOSE)
    np.testing.assert_allclose(found.familiarity, expected.familiarity, atol=MAX_DIFFERENCE)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-3)


def test_features_are_close_to_those_of_onnx(quick: Engine, engine: Engine) -> None:
    images = pictures.digits(20)
    found, expected = quick.features(images), engine.features(images)

    assert quick.has_features
    assert np.abs(found - expected).max() < CLOSE * np.abs(expected).max()


def test_empty_batch_gives_no_answers(quick: Engine) -> None:
    assert quick.predict(pictures.digits(0)).shape == (0, 10)


def test_threads_may_run_at_the_same_time(quick: Engine) -> None:
    batches = [pictures.digits(40, seed=seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(quick.predict, batches))

    for found, images in zip(together, batches, strict=True):
        np.testing.assert_array_equal(found, quick.predict(images))


def test_model_without_familiarity_has_none(quick: Engine, shapes_model: StoredModel) -> None:
    spec = shapes_model.card.input
    engine = OpenvinoEngine(shapes_model.folder / ONNX_FILE, spec)

    assert not engine.run(spec.zeros(3)).known
    assert quick.run(pictures.digits(3)).known


def test_jobs_are_scored_with_it(
    quick: Engine, digits_model: StoredModel, loupe: Loupe, tmp_path: Path
) -> None:
    images = pictures.digits(200)
    np.save(tmp_path / "images.npy", images)
    source, tag = str(tmp_path / "images.npy"), digits_model.tag
    for name in ("onnx", "openvino"):
        arguments = ("score", source, "--out", str(tmp_path / name), "--local", "--model", tag)
        assert loupe(*arguments, LOUPE_ENGINE=name).code == 0

    exact, found = (
        pyarrow.parquet.read_table(tmp_path / name, columns=["label", "confidence"]).to_pydict()
        for name in ("onnx", "openvino")
    )
    assert found["label"] == exact["label"]
    assert found["confidence"] != exact["confidence"]
    np.testing.assert_allclose(found["confidence"], exact["confidence"], atol=CLOSE)


def test_processor_without_bfloat16_is_refused(digits_model: StoredModel) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has bfloat16")

    with pytest.raises(ProgramFailed, match="bfloat16"):
        OpenvinoEngine(digits_model.folder / ONNX_FILE, digits_model.card.input)


def test_model_without_pictures_to_check_is_refused(
    quick: Engine, shapes_model: StoredModel
) -> None:
    with pytest.raises(ProgramFailed, match="no pictures"):
        load_engine(shapes_model, "openvino")


def test_engine_with_other_answers_is_refused(
    quick: Engine, engine: Engine, digits_model: StoredModel
) -> None:
    class Other(OnnxEngine):
        def predict(self, images: UInt8Array) -> Float32Array:
            probabilities = super().predict(images)
            probabilities[::100] = np.roll(probabilities[::100], 1, axis=1)
            return probabilities

    check_exactness(digits_model, quick, engine)
    other = Other(digits_model.folder / ONNX_FILE, digits_model.card.input)
    with pytest.raises(ProgramFailed) as caught:
        check_exactness(digits_model, other, engine)
    assert caught.value.code == "engine_unavailable"
