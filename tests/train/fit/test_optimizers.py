"""Optimizers and schedules."""

from typing import get_args

import pytest
from keras.losses import SparseCategoricalCrossentropy

from tests.support import pictures
from train.config import Optimizer, recipe
from train.fit.optimizers import learning_rate, make_optimizer
from train.nets.architectures import build


@pytest.mark.parametrize("name", get_args(Optimizer))
def test_every_optimizer_changes_the_weights(name: str) -> None:
    config = recipe("mlp-small", optimizer=name, learning_rate=0.1)
    model = build((28, 28), 3, config)
    before = model.get_weights()
    model.compile(
        optimizer=make_optimizer(config, 10), loss=SparseCategoricalCrossentropy(from_logits=True)
    )
    shapes = pictures.shapes().train
    model.train_on_batch(shapes.images, shapes.labels)

    assert any((old != new).any() for old, new in zip(before, model.get_weights(), strict=True))


def test_amsgrad_is_a_variant_of_adam() -> None:
    assert make_optimizer(recipe("mlp", optimizer="amsgrad"), 10).amsgrad
    assert not make_optimizer(recipe("mlp", optimizer="adam"), 10).amsgrad


def rates(schedule: str, *steps: int) -> list[float]:
    """Return the learning rate after each number of 100 steps."""
    rate = learning_rate(recipe("mlp", schedule=schedule, learning_rate=0.1), 100)
    assert not isinstance(rate, float)
    return [float(rate(step)) for step in steps]


def test_a_cosine_falls_from_the_learning_rate_to_zero() -> None:
    assert rates("cosine", 0, 50, 100) == pytest.approx([0.1, 0.05, 0], abs=1e-6)


def test_one_cycle_rises_for_a_fifth_of_the_steps_and_then_falls_to_zero() -> None:
    assert rates("one-cycle", 0, 20, 60, 100) == pytest.approx([0.005, 0.1, 0.05, 0], abs=1e-6)


def test_weight_decay_applies_to_kernels_only() -> None:
    config = recipe("cnn", weight_decay=0.5)
    model = build((28, 28), 3, config)
    made = make_optimizer(config, 10)
    made.build(model.trainable_variables)

    decayed = {
        variable.path.rpartition("/")[2]
        for variable in model.trainable_variables
        if made._use_weight_decay(variable)
    }
    assert decayed == {"kernel"}
