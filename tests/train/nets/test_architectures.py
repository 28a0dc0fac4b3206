"""Architectures: shapes, parameter counts, and initial weights."""

from typing import get_args

import numpy as np
import pytest

from loupe.errors import InvalidUsage
from tests.support import pictures
from train.config import Architecture, recipe
from train.nets.architectures import FEATURES, build
from train.nets.backbones import BACKBONES

# Weights and biases by layer: inputs × outputs + outputs; normalisation: 4 per channel.
PARAMETERS = {
    "softmax": 784 * 10 + 10,
    "mlp-sigmoid": 784 * 50 + 50 + 50 * 100 + 100 + 100 * 10 + 10,
    "mlp": 784 * 128 + 128 + 128 * 10 + 10,
    "mlp-512": 784 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10,
    "mlp-small": 784 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10,
    "cnn-small": 160 + 4640 + 128 + 7 * 7 * 32 * 128 + 128 + 1290,
    "cnn-classic": 320 + 18_496 + 12 * 12 * 64 * 128 + 128 + 1290,
    "cnn": 160_250,
    "resnet": 1_816_646,
}
LARGE_PARAMETERS = {  # of images of 64 × 64 × 3 in ten classes
    "cnn-small": 1_055_210,
    "cnn-classic": 1_864_010,
    "cnn": 363_258,
    "resnet": 1_985_958,
}


def test_every_architecture_has_a_network() -> None:
    assert {*FEATURES, *BACKBONES} == set(get_args(Architecture))


@pytest.mark.parametrize("architecture", PARAMETERS)
def test_an_architecture_has_its_exact_number_of_parameters(architecture: str) -> None:
    assert build((28, 28), 10, recipe(architecture)).count_params() == PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", LARGE_PARAMETERS)
def test_large_images_in_colour_do_not_explode_an_architecture(architecture: str) -> None:
    model = build((64, 64, 3), 10, recipe(architecture))

    assert model.count_params() == LARGE_PARAMETERS[architecture]


@pytest.mark.parametrize("architecture", FEATURES)
@pytest.mark.parametrize("shape", [(16, 16), (32, 32, 3), (128, 128, 3), (48, 96)], ids=str)
def test_every_architecture_takes_images_of_every_spec(
    architecture: str, shape: tuple[int, ...]
) -> None:
    images = np.zeros((2, *shape), np.uint8)

    assert np.asarray(build(shape, 3, recipe(architecture))(images)).shape == (2, 3)


@pytest.mark.parametrize("architecture", FEATURES)
def test_a_model_takes_raw_bytes_and_gives_a_logit_for_every_class(architecture: str) -> None:
    model = build((28, 28), 4, recipe(architecture))
    logits = np.asarray(model(pictures.digits(5)))

    assert (logits.shape, logits.dtype) == ((5, 4), np.dtype(np.float32))
    assert model.layers[1].__class__.__name__ == "Rescaling"


@pytest.mark.parametrize("architecture", FEATURES)
def test_every_architecture_takes_images_of_8_by_8(architecture: str) -> None:
    images = np.zeros((3, 8, 8), np.uint8)

    assert np.asarray(build((8, 8), 2, recipe(architecture))(images)).shape == (3, 2)


def test_images_too_small_for_an_architecture_are_refused() -> None:
    with pytest.raises(InvalidUsage, match=r"3 × 3 pixels.* cnn-classic") as raised:
        build((3, 3), 10, recipe("cnn-classic"))

    assert raised.value.code == "invalid_training"


def test_hidden_sizes_and_their_number_can_be_chosen() -> None:
    model = build((8, 8), 10, recipe("mlp-small", hidden=(64, 32, 16)))

    assert model.count_params() == 64 * 64 + 64 + 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10


def test_the_filters_of_a_resnet_can_be_chosen() -> None:
    slim = build((28, 28), 10, recipe("resnet", hidden=(32, 48, 96)))

    assert slim.count_params() == 493_304


@pytest.mark.parametrize(("side", "stages"), [(28, 3), (64, 4)])
def test_a_resnet_refuses_filters_of_another_number_of_stages(side: int, stages: int) -> None:
    with pytest.raises(InvalidUsage, match=str(stages)) as raised:
        build((side, side), 10, recipe("resnet", hidden=(32, 64)))

    assert raised.value.code == "invalid_training"


def test_mlp_small_scales_images_to_16() -> None:
    assert build((8, 8), 10, recipe("mlp-small"), full_ink=128).layers[1].scale == 16 / 128


def test_initial_weights_follow_the_configuration() -> None:
    model = build((8, 8), 10, recipe("mlp-small", initializer="zeros", bias=0.25))
    kernel, bias = model.get_layer("logits").get_weights()

    assert not kernel.any()
    np.testing.assert_array_equal(bias, 0.25)


def test_layers_of_one_size_have_different_initial_weights() -> None:
    first, second = (
        layer.get_weights()[0]
        for layer in build((8, 8), 4, recipe("mlp", hidden=(64, 64))).layers[3:5]
    )

    assert np.abs(first - second).max() > 0.01
