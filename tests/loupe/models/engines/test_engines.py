"""Engines on a real small model: they agree with each other and with themselves."""

from pathlib import Path

import numpy as np
import pytest

from loupe.errors import InvalidPixels, ModelCorrupted
from loupe.images.spec import ImageSpec
from loupe.models.engines.engine import Engine, run_size
from loupe.models.engines.loading import load_engine
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.store import ONNX_FILE, StoredModel
from tests.support import pictures
from tests.support.stores import copied, damage

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=["onnx", "tensorflow"])
def each_engine(request: pytest.FixtureRequest, digits_model: StoredModel) -> Engine:
    return load_engine(digits_model, request.param)


def test_both_engines_give_the_same_probabilities(each_engine: Engine, engine: Engine) -> None:
    images = pictures.digits(200)

    np.testing.assert_allclose(each_engine.predict(images), engine.predict(images), atol=1e-4)


def test_probabilities_are_floats_in_rows_that_sum_to_one(each_engine: Engine) -> None:
    probabilities = each_engine.predict(pictures.digits(50))

    assert probabilities.dtype == np.float32
    assert probabilities.shape == (50, 10)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=TOLERANCE)


def test_batch_of_one_equals_a_batch_of_many(each_engine: Engine) -> None:
    images = pictures.digits(40, seed=1)
    alone = np.concatenate([each_engine.predict(image[None]) for image in images])

    np.testing.assert_allclose(alone, each_engine.predict(images), atol=TOLERANCE)


def test_empty_batch_gives_no_probabilities(each_engine: Engine) -> None:
    assert each_engine.predict(pictures.digits(0)).shape == (0, 10)


def test_images_need_not_be_contiguous(each_engine: Engine) -> None:
    images = pictures.digits(20)

    np.testing.assert_allclose(
        each_engine.predict(images[::2]), each_engine.predict(images)[::2], atol=TOLERANCE
    )
    turned = np.ascontiguousarray(images.transpose(0, 2, 1)).transpose(0, 2, 1)
    np.testing.assert_allclose(
        each_engine.predict(turned), each_engine.predict(images), atol=TOLERANCE
    )


def test_arrays_of_another_dtype_or_shape_are_refused(each_engine: Engine) -> None:
    for images in (
        np.zeros((1, 28, 28), np.float32),
        np.zeros((28, 28), np.uint8),
        np.zeros((1, 32, 32), np.uint8),
    ):
        with pytest.raises(InvalidPixels, match=rf"{images.dtype}, shape \({images.shape[0]}, "):
            each_engine.predict(images)  # type: ignore[arg-type]


def test_model_knows_digits(engine: Engine) -> None:
    from train.data.datasets import load_dataset

    dataset = load_dataset("digits")
    right = engine.predict(dataset.test.images).argmax(axis=1) == dataset.test.labels

    assert right.mean() > 0.85


def test_damaged_model_is_not_loaded(tmp_path: Path, digits_model: StoredModel) -> None:
    model = copied(digits_model, tmp_path)
    damage(model.folder / ONNX_FILE)

    with pytest.raises(ModelCorrupted, match=r"model\.onnx is not the file that was saved"):
        load_engine(model)


def test_number_of_threads_does_not_change_probabilities(digits_model: StoredModel) -> None:
    images = pictures.digits(64)
    one, two = (
        OnnxEngine(digits_model.folder / ONNX_FILE, digits_model.card.input, threads).predict(
            images
        )
        for threads in (1, 2)
    )

    np.testing.assert_allclose(one, two, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (ImageSpec("ink"), 128),
        (ImageSpec("photo", 32, 32, 3), 128),
        (ImageSpec("photo", 64, 64, 3), 42),
        (ImageSpec("photo", 128, 128, 3), 10),
    ],
    ids=str,
)
def test_a_run_takes_fewer_of_large_images(spec: ImageSpec, size: int) -> None:
    assert run_size(spec, 128) == size
    assert run_size(spec, 1) == 1
