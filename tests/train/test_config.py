"""Hyperparameters: recipes, changes to them, and values that cannot be."""

from dataclasses import replace

import pytest

from loupe.old_errors.train import InvalidTraining
from train.config import FULL_BATCH, RECIPES, recipe


def test_what_is_not_said_is_as_the_recipe_has_it() -> None:
    assert recipe("mlp", epochs=3, hidden=None) == replace(RECIPES["mlp"], epochs=3)


def test_every_recipe_is_for_the_architecture_it_stands_under() -> None:
    assert all(config.architecture == name for name, config in RECIPES.items())


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(60_000, 21), (1_856, 21), (1_280, 30), (10, 600)],
    ids=["as many as the recipe is for", "just enough", "few", "hardly any"],
)
def test_few_images_are_seen_more_often(images: int, epochs: int) -> None:
    assert recipe("cnn", images).epochs == epochs


def test_epochs_that_were_asked_for_are_kept_however_few_the_images() -> None:
    assert recipe("cnn", 10, epochs=2).epochs == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"optimizer": "adamm"},
            "optimizer: expected one of sgd, .*rmsprop; nearest: adam. Received: adamm",
        ),
        (
            {"schedule": "stepwise"},
            "schedule: expected one of constant, cosine, one-cycle. Received: stepwise",
        ),
        ({"initializer": "he"}, "initializer: expected one of .*Received: he"),
        ({"epochs": 0}, "epochs: expected at least 1. Received: 0"),
        ({"batch_size": -1}, "batch size: expected at least 1 image, or 'full'. Received: -1"),
        ({"learning_rate": 0.0}, "learning rate: expected a number above 0. Received: 0.0"),
        ({"learning_rate": float("nan")}, "learning rate: .*Received: nan"),
        ({"weight_decay": -1.0}, "weight decay: expected a number of 0 or more. Received: -1.0"),
        ({"patience": -1}, "patience: expected 0 epochs or more. Received: -1"),
        (
            {"validation_fraction": 1.0},
            "validation fraction: expected a share of 0 or more, below 1. Received: 1.0",
        ),
        ({"hidden": (64, 0)}, r"hidden: expected units of at least 1. Received: \(64, 0\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_impossible_values_are_told_with_what_was_expected(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidTraining, match=message):
        recipe("mlp", **changes)


def test_an_unknown_architecture_is_told_with_all_names_and_the_nearest() -> None:
    with pytest.raises(
        InvalidTraining, match=r"one of softmax, .*, resnet; nearest: resnet\. Received: resnt"
    ):
        recipe("resnt")


def test_hidden_sizes_are_refused_where_there_is_no_hidden_layer_to_choose() -> None:
    with pytest.raises(
        InvalidTraining,
        match=r"hidden sizes to choose \(mlp-sigmoid, mlp, mlp-512, mlp-small\). Received: cnn",
    ):
        recipe("cnn", hidden=(64,))


def test_the_whole_split_can_be_one_batch() -> None:
    assert recipe("mlp-small").batch_size == FULL_BATCH
