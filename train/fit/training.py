"""Train a classifier: fit, calibrate, evaluate, check the accuracy, export, report, save."""

import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import keras
import numpy as np

from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.card import Figures, ModelCard
from loupe.models.certainty import Conformal
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.explaining.nearest import References
from loupe.models.promotion import promote_first
from loupe.models.saving import new_model
from loupe.models.store import ONNX_FILE, StoredModel, find_model
from train.config import TrainConfig, as_json
from train.data.datasets import Dataset, Split
from train.data.splits import hold_out
from train.evaluate.calibration import fit_temperature, log_probabilities
from train.evaluate.evaluation import Evaluation, Predictions, evaluate
from train.evaluate.gate import check_accuracy, conformal_of, default_min_accuracy
from train.evaluate.report import write_report
from train.evaluate.robustness.measuring import measure
from train.evaluate.weights import first_filters, pixel_weights
from train.fit import export
from train.fit.fitting import Fitted, fit

EVALUATION_BATCH = 512  # images; affects only the speed
PACKAGES = ("keras", "tensorflow", "onnx", "onnxruntime", "numpy")


def train(
    dataset: Dataset,
    config: TrainConfig,
    *,
    name: str | None = None,
    replace_classes: bool = False,
    min_accuracy: float | None = None,
    folder: Path | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> StoredModel:
    """Train a model and save it to the store, under the name of the data set by default.

    `min_accuracy` is `default_min_accuracy` by default. `folder` is for checkpoints; a training
    that stopped there is resumed.

    Raises:
        InvalidUsage: If the images are too small for a stored model.
        ProgramFailed: If the training diverges, the model is not accurate enough, or the two
            exported files disagree; nothing is saved.
        Interrupted: After Ctrl-C, if there is a folder.
    """
    spec = dataset.spec
    dataset = hold_out(dataset, config)
    fitted = fit(dataset, config, folder=folder, callbacks=callbacks)
    evaluation = evaluate_model(dataset, config, fitted)
    check_accuracy(
        evaluation.test.accuracy,
        default_min_accuracy(dataset) if min_accuracy is None else min_accuracy,
    )
    evaluation = evaluation.with_robustness(
        measure(dataset.test, spec, _predictor(fitted, evaluation))
    )
    model = export.add_softmax(fitted.model, evaluation.calibration.temperature)
    known = None
    if dataset.validation:
        known = dataset.train.images, dataset.validation.images
    with export.exported(model, spec, dataset.test.images, known) as files:
        engine = conformal = None
        if dataset.validation:
            engine = OnnxEngine(files.folder / ONNX_FILE, spec)
            conformal = conformal_of(engine, dataset.validation)
        card = make_card(dataset, config, fitted, evaluation, files, conformal)
        with new_model(name or dataset.name, card, replace_classes=replace_classes) as stored:
            for file in card.files:
                shutil.copy2(files.folder / file, stored.path_of(file))
            if engine is not None and engine.has_features:
                References.of(engine, dataset.train.images, dataset.train.labels).save(
                    Path(stored.path)
                )
            write_report(
                Path(stored.path),
                evaluation,
                card,
                dataset,
                tag=str(stored.tag),
                pixel_weights=pixel_weights(fitted.model),
                first_filters=first_filters(fitted.model),
            )
    saved = find_model(str(stored.tag))
    promote_first(saved)
    return saved


def evaluate_model(dataset: Dataset, config: TrainConfig, fitted: Fitted) -> Evaluation:
    """Evaluate a fitted model on all splits; the validation split determines the temperature."""

    def predict(split: Split) -> Predictions:
        logits = fitted.model.predict(split.images, batch_size=EVALUATION_BATCH, verbose=0)
        return Predictions(logits, split.labels)

    validation = predict(dataset.validation) if dataset.validation else None
    return evaluate(
        dataset=dataset.name,
        architecture=config.architecture,
        class_names=dataset.class_names,
        train=predict(dataset.train.sample(config.seed)),
        test=predict(dataset.test),
        validation=validation,
        extra=predict(dataset.extra) if dataset.extra else None,
        history=fitted.history,
        best_epoch=fitted.best_epoch,
        temperature=fit_temperature(validation.logits, validation.labels) if validation else 1.0,
    )


def _predictor(fitted: Fitted, evaluation: Evaluation) -> Callable[[UInt8Array], Float32Array]:
    """Return a function from images to calibrated probabilities."""

    def predict(images: UInt8Array) -> Float32Array:
        logits = fitted.model.predict(images, batch_size=EVALUATION_BATCH, verbose=0)
        shares = np.exp(log_probabilities(logits, evaluation.calibration.temperature))
        return np.asarray(shares, np.float32)

    return predict


def make_card(
    dataset: Dataset,
    config: TrainConfig,
    fitted: Fitted,
    evaluation: Evaluation,
    files: export.ExportedFiles,
    conformal: Conformal | None = None,
) -> ModelCard:
    """Return the model card."""
    return ModelCard(
        dataset=dataset.name,
        class_names=dataset.class_names,
        translations=dict(dataset.translations),
        input=dataset.spec,
        source=dataset.source,
        licence=dataset.licence,
        figures=_figures(dataset, fitted, evaluation, files),
        familiarity=files.familiarity,
        conformal=conformal,
        files=files.digests,
        config={
            **as_json(config),
            "parameters": fitted.model.count_params(),
            "best_epoch": fitted.best_epoch,
        },
        made_with={package: version(package) for package in PACKAGES},
        created=datetime.now(UTC),
    )


def _figures(
    dataset: Dataset, fitted: Fitted, evaluation: Evaluation, files: export.ExportedFiles
) -> Figures:
    extra = evaluation.extra
    return Figures(
        test_images=evaluation.test.images,
        test_digest=dataset.test.digest(),
        accuracy=evaluation.test.accuracy,
        loss=evaluation.test.loss,
        train_accuracy=evaluation.train.accuracy if evaluation.train else None,
        calibration_error=evaluation.calibration.error_after,
        extra_images=extra.images if extra else 0,
        extra_accuracy=extra.accuracy if extra else None,
        engines_difference=files.difference,
        training_seconds=fitted.seconds,
    )
