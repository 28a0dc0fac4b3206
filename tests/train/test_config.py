"""Hyperparameters: recipes, changes to them, and invalid values."""

from dataclasses import replace

import pytest

from loupe.errors import InvalidUsage
from train.config import FIELDS, FULL_BATCH, RECIPES, help_text, recipe


def test_changes_replace_values_of_the_recipe() -> None:
    assert recipe("mlp", epochs=3, hidden=None) == replace(RECIPES["mlp"], epochs=3)


def test_every_recipe_is_for_its_architecture() -> None:
    assert all(config.architecture == name for name, config in RECIPES.items())


@pytest.mark.parametrize(
    ("images", "epochs"),
    [(60_000, 21), (1_856, 21), (1_280, 30), (10, 600)],
    ids=["as many as the recipe is for", "just enough", "few", "hardly any"],
)
def test_few_images_get_more_epochs(images: int, epochs: int) -> None:
    assert recipe("cnn", images).epochs == epochs


def test_photos_have_recipes_and_steps_of_their_own() -> None:
    photo = recipe("resnet", 3_000, "photo")

    assert (photo.epochs, photo.label_smoothing) == (62, 0.1)
    assert recipe("resnet", 50_000, "photo").epochs == 30
    assert recipe("resnet", 50_000).label_smoothing == 0
    assert recipe("softmax", 3_000, "photo") == recipe("softmax", 3_000)


def test_given_epochs_are_kept_for_few_images() -> None:
    assert recipe("cnn", 10, epochs=2).epochs == 2


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"optimizer": "adamm"}, ["optimizer", "'rmsprop'", "'adamm'", "Did you mean adam?"]),
        ({"schedule": "stepwise"}, ["schedule", "'one-cycle'", "'stepwise'"]),
        ({"initializer": "he"}, ["initializer", "'he-normal'", "'he'"]),
        ({"epochs": 0}, ["epochs", "1", "0"]),
        ({"epochs": "many"}, ["epochs", "integer", "'many'"]),
        ({"batch_size": -1}, ["batch size", "-1"]),
        ({"batch_size": "0"}, ["batch size", "at least 1, or 'full'", "'0'"]),
        ({"learning_rate": 0.0}, ["learning rate", "greater than 0", "0.0"]),
        ({"learning_rate": float("nan")}, ["learning rate", "nan"]),
        ({"weight_decay": -1.0}, ["weight decay", "0", "-1.0"]),
        ({"patience": -1}, ["patience", "0", "-1"]),
        ({"validation_fraction": 1.0}, ["validation fraction", "less than 1", "1.0"]),
        ({"hidden": (64, 0)}, ["hidden", "1", "0"]),
        ({"hidden": "64;32"}, ["hidden", "integer", "'64;32'"]),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_invalid_values_are_refused_with_name_limit_and_value(
    changes: dict[str, object], facts: list[str]
) -> None:
    with pytest.raises(InvalidUsage) as raised:
        recipe("mlp", **changes)

    assert (raised.value.code, raised.value.exit_code) == ("invalid_training", 2)
    assert all(fact in raised.value.message for fact in facts)


def test_an_unknown_architecture_is_refused_with_all_names_and_a_suggestion() -> None:
    with pytest.raises(InvalidUsage, match=r"'softmax', .*'resnt'.* Did you mean resnet") as raised:
        recipe("resnt")

    assert raised.value.code == "invalid_training"


def test_hidden_sizes_are_refused_for_architectures_without_hidden_layers() -> None:
    with pytest.raises(InvalidUsage, match=r"cnn .*mlp-sigmoid, mlp, mlp-512, mlp-small"):
        recipe("cnn", hidden=(64,))


def test_text_is_parsed_as_on_the_command_line() -> None:
    config = recipe("mlp", hidden="64, 32", batch_size="full", epochs="3")

    assert (config.hidden, config.batch_size, config.epochs) == ((64, 32), FULL_BATCH, 3)


def test_every_field_has_a_help_text() -> None:
    assert all(FIELDS[name].description for name in FIELDS)
    assert help_text("schedule").endswith("One of: constant, cosine, one-cycle.")


def test_mlp_small_trains_on_the_whole_split_at_once() -> None:
    assert recipe("mlp-small").batch_size == FULL_BATCH
