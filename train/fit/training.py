"""Train a classifier: fit, calibrate, measure, refuse what is not good enough, export, report, save."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from loupe.models.card import Figures, ModelCard
from loupe.models.store import StoredModel
from loupe.old_errors.train import AccuracyTooLow
from train.config import TrainConfig
from train.data.datasets import Dataset, Split, check_size
from train.evaluate.calibration import fit_temperature
from train.evaluate.evaluation import Answers, Evaluation, evaluate
from train.evaluate.report import write_report
from train.evaluate.weights import first_filters, pixel_weights
from train.fit import export
from train.fit.fitting import Fitted, fit

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 512  # images; only a matter of speed
PACKAGES = ("keras", "tensorflow", "onnx", "onnxruntime", "numpy")

# What a model of these data sets reaches unless something went wrong; others must only beat naming the commonest class each time.
MIN_ACCURACY = {"fashion-mnist": 0.80, "mnist": 0.90, "digits": 0.80}


def train(
    dataset: Dataset,
    config: TrainConfig,
    *,
    min_accuracy: float | None = None,
    folder: Path | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> StoredModel:
    """Train, measure, export, check and save one model.

    Args:
        dataset: Images of 28 × 28.
        config: The hyperparameters.
        min_accuracy: Least accuracy on the test split, 0..1; by default what `least_accuracy` says.
        folder: Where the checkpoints are, and a training that stopped there goes on.
        callbacks: Are told of every batch and epoch.

    Raises:
        InvalidTraining: If the images are not 28 × 28, which is what stored models take.
        AccuracyTooLow: If the model is not good enough; nothing is saved.
        EnginesDisagree: If the two exported files answer differently; nothing is saved.
        TrainingDiverged, TrainingInterrupted, CheckpointFailed: See `fit`.
    """
    check_size(dataset)
    dataset = hold_out(dataset, config)
    fitted = fit(dataset, config, folder=folder, callbacks=callbacks)
    evaluation = measure(dataset, config, fitted)
    logger.info(
        "%s: test accuracy %.4f, %.0f s", dataset.name, evaluation.test.accuracy, fitted.seconds
    )
    minimum = least_accuracy(dataset) if min_accuracy is None else min_accuracy
    if evaluation.test.accuracy < minimum:
        raise AccuracyTooLow(evaluation.test.accuracy, minimum)
    model = export.calibrated(fitted.model, evaluation.calibration.temperature)
    with export.exported(model, dataset.test.images) as files:
        card = describe(dataset, config, fitted, evaluation, files)

        def report(place: Path, tag: str) -> None:
            weights, filters = pixel_weights(fitted.model), first_filters(fitted.model)
            write_report(
                place,
                evaluation,
                card,
                dataset,
                tag=tag,
                pixel_weights=weights,
                first_filters=filters,
            )

        return export.save(dataset.name, files, card, report)


def hold_out(dataset: Dataset, config: TrainConfig) -> Dataset:
    """The data set with a validation split, taken from the training split where it brings none of its own.

    Every class gives its share; which images it gives follows the seed.
    """
    from sklearn.model_selection import train_test_split

    count = round(len(dataset.train.labels) * config.validation_fraction)
    if dataset.validation or not count:
        return dataset
    counts = np.bincount(dataset.train.labels)
    even = count >= len(dataset.class_names) and counts[counts > 0].min() >= 2
    kept, held = train_test_split(
        np.arange(len(dataset.train.labels)),
        test_size=count,
        stratify=dataset.train.labels if even else None,
        random_state=config.seed,
    )
    return replace(dataset, train=dataset.train.take(kept), validation=dataset.train.take(held))


def measure(dataset: Dataset, config: TrainConfig, fitted: Fitted) -> Evaluation:
    """Everything there is to say about how good a fitted model is; its temperature is fitted on the validation split."""

    def answers(split: Split) -> Answers:
        return Answers(
            fitted.model.predict(split.images, batch_size=EVALUATION_BATCH, verbose=0), split.labels
        )

    validation = answers(dataset.validation) if dataset.validation else None
    return evaluate(
        dataset=dataset.name,
        architecture=config.architecture,
        class_names=dataset.class_names,
        train=answers(dataset.train.sample(config.seed)),
        test=answers(dataset.test),
        validation=validation,
        extra=answers(dataset.extra) if dataset.extra else None,
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        temperature=fit_temperature(validation.logits, validation.labels) if validation else 1.0,
    )


def least_accuracy(dataset: Dataset) -> float:
    """The test accuracy below which a model of a data set is not saved."""
    commonest = np.bincount(dataset.test.labels).max() / len(dataset.test.labels)
    return MIN_ACCURACY.get(dataset.name, float(commonest))


def describe(
    dataset: Dataset,
    config: TrainConfig,
    fitted: Fitted,
    evaluation: Evaluation,
    files: export.ExportedFiles,
) -> ModelCard:
    """The model card."""
    return ModelCard(
        dataset=dataset.name,
        class_names=dataset.class_names,
        translations=dict(dataset.translations),
        look=dataset.look,
        source=dataset.source,
        licence=dataset.licence,
        figures=Figures(
            test_images=evaluation.test.images,
            test_digest=dataset.test.digest(),
            accuracy=evaluation.test.accuracy,
            loss=evaluation.test.loss,
            train_accuracy=evaluation.train.accuracy,
            calibration_error=evaluation.calibration.error_after,
            extra_images=evaluation.extra.images if evaluation.extra else 0,
            extra_accuracy=evaluation.extra.accuracy if evaluation.extra else None,
            engines_difference=files.difference,
            training_seconds=fitted.seconds,
        ),
        files=files.digests,
        config={
            **asdict(config),
            "hidden": list(config.hidden),
            "parameters": fitted.model.count_params(),
            "best_epoch": fitted.best_epoch,
        },
        made_with={package: version(package) for package in PACKAGES},
        created=datetime.now(timezone.utc),
    )
