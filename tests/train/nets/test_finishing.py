"""The model that answers: Keras's own layers alone, and both sides of a thing."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import pictures
from train.config import recipe
from train.nets.architectures import build
from train.nets.finishing import finished


@pytest.mark.parametrize("architecture", ["cnn", "mlp"])
@pytest.mark.parametrize(("both_ways", "shifted"), [(False, False), (True, False), (True, True)])
def test_a_finished_model_is_loaded_without_code_of_ours_and_answers_alike(
    architecture: str, both_ways: bool, shifted: bool, tmp_path: Path
) -> None:
    model = finished(build((28, 28), 3, recipe(architecture)), both_ways=both_ways, shifted=shifted)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)

    assert all(type(layer).__module__.startswith("keras.") for layer in loaded._flatten_layers())
    np.testing.assert_array_equal(loaded(pictures.digits(4)), model(pictures.digits(4)))


def test_a_model_that_looks_both_ways_answers_with_the_mean() -> None:
    network, images = build((28, 28), 3, recipe("cnn")), pictures.digits(4)
    model = finished(network, both_ways=True)

    np.testing.assert_allclose(
        model(images),
        (np.asarray(network(images)) + np.asarray(network(images[:, :, ::-1]))) / 2,
        atol=1e-6,
    )
    np.testing.assert_allclose(model(images), model(images[:, :, ::-1]), atol=1e-6)


def test_a_model_that_looks_higher_and_lower_answers_with_the_mean() -> None:
    network, images = build((28, 28), 3, recipe("cnn")), pictures.digits(4)
    blank = np.zeros((4, 1, 28), np.uint8)
    views = [
        images,
        np.concatenate([images[:, 1:], blank], axis=1),
        np.concatenate([blank, images[:, :-1]], axis=1),
    ]
    mean = np.mean([network(view) for view in views], axis=0)
    mirrored = np.mean([network(view[:, :, ::-1]) for view in views], axis=0)

    np.testing.assert_allclose(
        finished(network, both_ways=False, shifted=True)(images), mean, atol=1e-6
    )
    np.testing.assert_allclose(
        finished(network, both_ways=True, shifted=True)(images), (mean + mirrored) / 2, atol=1e-6
    )


def test_a_model_that_looks_one_way_answers_as_its_network_does() -> None:
    network = build((28, 28), 3, recipe("cnn"))

    np.testing.assert_array_equal(
        finished(network, both_ways=False)(pictures.digits(4)), network(pictures.digits(4))
    )


def test_looking_both_ways_takes_no_weights_of_its_own() -> None:
    network = build((28, 28), 3, recipe("cnn"))

    assert finished(network, both_ways=True).count_params() == network.count_params()
