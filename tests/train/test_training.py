"""Training, for real and small."""

import numpy as np
import pytest

from loupe.engine import Engine, load_engine
from loupe.store import StoredModel, find_model, verify
from tests import pictures
from train.architectures import cnn
from train.datasets import load_dataset
from train.training import PACKAGES, TrainConfig, fit


def test_the_architecture_has_its_exact_number_of_parameters() -> None:
    model = cnn(10)

    # 3·3·1·16 + 16, 3·3·16·32 + 32, 4·32, 7·7·32·128 + 128, 128·10 + 10
    assert model.count_params() == 160 + 4640 + 128 + 200_832 + 1290
    assert cnn(3).count_params() == model.count_params() - 7 * 129


def test_an_untrained_model_takes_raw_bytes_and_gives_probabilities() -> None:
    probabilities = np.asarray(cnn(4)(pictures.digits(5)))

    assert probabilities.shape == (5, 4)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_the_same_seed_gives_the_same_model() -> None:
    config = TrainConfig(epochs=1, batch_size=16, seed=3)
    first, second = (fit(pictures.shapes(), config)[0] for _ in range(2))

    for one, two in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_all_images_are_trained_on_where_none_are_held_back() -> None:
    model, seconds = fit(pictures.shapes(), TrainConfig(epochs=1, batch_size=16, validation_fraction=0.0))

    assert int(model.optimizer.iterations) == 2
    assert seconds > 0


def test_a_trained_model_is_in_the_store_with_a_card_that_says_how_it_was_made(shapes_model: StoredModel) -> None:
    card = shapes_model.card

    assert find_model(shapes_model.tag) == shapes_model
    verify(shapes_model)
    assert (card.dataset, card.class_names, card.look) == ("shapes", ("across", "upright", "square"), "object")
    assert card.config == {
        "architecture": "cnn",
        "epochs": 1,
        "batch_size": 16,
        "learning_rate": 0.003,
        "validation_fraction": 0.1,
        "seed": 0,
    }
    assert set(card.made_with) == set(PACKAGES)
    assert card.figures.test_images == 16
    assert 0 <= card.figures.engines_difference < 1e-4


def test_the_accuracy_on_the_card_is_that_of_the_stored_model(digits_model: StoredModel, engine: Engine) -> None:
    digits = load_dataset("digits")
    right = engine.predict(digits.test.images).argmax(axis=1) == digits.test.labels

    assert digits_model.card.figures.accuracy == pytest.approx(right.mean(), abs=0.003)  # two images on the edge
    assert digits_model.card.figures.accuracy > 0.85


def test_figures_of_loss_are_mean_cross_entropy(shapes_model: StoredModel) -> None:
    shapes = pictures.shapes()
    probabilities = load_engine(shapes_model).predict(shapes.test.images)
    of_label = probabilities[np.arange(len(shapes.test.labels)), shapes.test.labels]

    assert shapes_model.card.figures.loss == pytest.approx(-np.log(of_label).mean(), rel=1e-3)
