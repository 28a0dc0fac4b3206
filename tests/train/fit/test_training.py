"""Training as a whole: the card, the report, and models that are refused."""

import math
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from loupe.errors import InvalidUsage, ProgramFailed
from loupe.images.spec import ImageSpec
from loupe.models.card import ModelCard
from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import load_engine
from loupe.models.store import StoredModel, find_model, list_models, verify
from tests.support import pictures
from train.config import recipe
from train.data.datasets import Split, load_dataset
from train.data.splits import hold_out
from train.evaluate.evaluation import Evaluation
from train.evaluate.gate import check_accuracy, default_min_accuracy
from train.fit.fitting import fit
from train.fit.training import PACKAGES, evaluate_model, train

TINY = recipe("softmax", epochs=1)


def test_a_trained_model_is_in_the_store_with_its_card(
    shapes_model: StoredModel,
) -> None:
    card = shapes_model.card

    assert find_model(shapes_model.tag) == shapes_model
    verify(shapes_model)
    assert (card.dataset, card.class_names, card.input.look) == (
        "shapes",
        ("across", "upright", "square"),
        "object",
    )
    assert (
        card.config.items()
        >= {"architecture": "cnn-small", "epochs": 1, "batch_size": 16, "seed": 0}.items()
    )
    assert set(card.made_with) == set(PACKAGES)
    assert (card.measured.test_images, card.measured.test_digest) == (
        16,
        pictures.shapes().test.digest(),
    )
    assert 0 <= card.measured.engines_difference < 1e-4


def test_a_model_has_a_report(shapes_model: StoredModel) -> None:
    evaluation = Evaluation.load(shapes_model.folder)

    assert evaluation.test.accuracy == shapes_model.card.measured.accuracy
    assert shapes_model.tag in (shapes_model.folder / "report.html").read_text(encoding="utf-8")
    assert (shapes_model.folder / "MODEL_CARD.md").is_file()
    assert {path.stem for path in (shapes_model.folder / "report").glob("*.png")} >= {
        "confusion-matrix",
        "samples",
    }


def test_a_model_of_photos_is_stored_with_their_spec(store: Path) -> None:
    photos = pictures.photos()
    config = recipe("cnn-small", None, "photo", epochs=8, batch_size=8, shifted_views=True)
    model = train(photos, config)
    card = (model.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    engine = load_engine(model)

    assert model.card.input == ImageSpec("photo", 32, 24, 3, "stretch")
    assert model.card.measured.accuracy > 0.9
    assert engine.predict(photos.test.images).argmax(axis=1).tolist() == [*photos.test.labels]
    assert "32 × 24 × 3" in card
    page = (model.folder / "report.html").read_text(encoding="utf-8")
    assert "28 × 28" not in card + page
    assert page.count("class=photos") >= 1  # not inverted in the dark


def test_the_accuracy_on_the_card_is_that_of_the_stored_model(
    digits_model: StoredModel, engine: Engine
) -> None:
    digits = load_dataset("digits")
    right = engine.predict(digits.test.images).argmax(axis=1) == digits.test.labels

    assert digits_model.card.measured.accuracy == pytest.approx(
        right.mean(), abs=0.003
    )  # two images are borderline
    assert digits_model.card.measured.accuracy > 0.85


def test_the_loss_is_the_mean_cross_entropy_of_calibrated_probabilities(
    shapes_model: StoredModel,
) -> None:
    shapes = pictures.shapes()
    probabilities = load_engine(shapes_model).predict(shapes.test.images)
    of_label = probabilities[np.arange(len(shapes.test.labels)), shapes.test.labels]

    assert shapes_model.card.measured.loss == pytest.approx(-np.log(of_label).mean(), rel=1e-3)


def test_the_temperature_is_fitted_on_the_validation_split() -> None:
    digits, config = load_dataset("digits"), recipe("softmax", epochs=5)
    fitted = fit(digits, config)
    logits = keras.layers.Rescaling(20.0)(fitted.model.outputs[0])
    certain = replace(fitted, model=keras.Model(fitted.model.inputs[0], logits))

    assert evaluate_model(digits, config, certain).calibration.temperature == 1.0
    validated = hold_out(digits, replace(config, validation_fraction=0.2))
    calibration = evaluate_model(validated, config, certain).calibration
    assert calibration.temperature > 2
    assert calibration.error_after < calibration.error_before


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """Train a model without a validation split but with own pictures, in a separate store."""
    shapes = pictures.shapes()
    dataset = replace(shapes, extra=Split(shapes.test.images[:5], shapes.test.labels[:5]))
    BentoMLContainer.model_store.set(ModelStore(tmp_path_factory.mktemp("models")))
    try:
        return train(dataset, replace(TINY, validation_fraction=0.0), min_accuracy=0)
    finally:
        BentoMLContainer.model_store.reset()


def test_without_a_validation_split_the_temperature_is_1(
    plain_model: StoredModel,
) -> None:
    assert Evaluation.load(plain_model.folder).calibration.temperature == 1.0


def test_own_pictures_are_evaluated_separately(plain_model: StoredModel) -> None:
    assert plain_model.card.measured.extra_images == 5
    assert plain_model.card.measured.extra_accuracy is not None


def test_a_model_that_is_not_good_enough_is_not_saved() -> None:
    shapes = pictures.shapes()
    unlike = replace(shapes, test=Split(shapes.test.images, (shapes.test.labels + 1) % 3))
    before = [model.tag for model in list_models()]
    with pytest.raises(ProgramFailed, match=r"minimum of 1 \(--min-accuracy\)") as raised:
        train(unlike, TINY, min_accuracy=1.0)

    assert raised.value.code == "accuracy_too_low"
    assert [model.tag for model in list_models()] == before


@pytest.mark.parametrize(("accuracy", "minimum"), [(math.nan, 0.5), (0.5, math.nan), (0.4, 0.5)])
def test_accuracy_must_reach_the_minimum(accuracy: float, minimum: float) -> None:
    with pytest.raises(ProgramFailed):
        check_accuracy(accuracy, minimum)


def test_a_model_of_own_classes_must_beat_the_most_frequent_class() -> None:
    shapes = pictures.shapes()
    uneven = replace(shapes, test=Split(shapes.test.images[:4], np.array([1, 1, 1, 0], np.int64)))

    assert default_min_accuracy(uneven) == 0.75
    assert default_min_accuracy(replace(uneven, name="mnist")) == 0.90


def test_models_of_images_below_16_by_16_are_not_stored() -> None:
    with pytest.raises(InvalidUsage, match=r"16 .* not 8") as raised:
        train(load_dataset("digits-8x8"), TINY)

    assert raised.value.code == "invalid_training"


def test_the_card_on_disk_is_the_card(shapes_model: StoredModel) -> None:
    assert ModelCard.load(shapes_model.folder) == shapes_model.card
