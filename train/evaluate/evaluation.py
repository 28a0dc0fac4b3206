"""The evaluation of a trained model, computed from its logits; stored as `report.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from loupe.images.spec import Float32Array
from loupe.models.significance import margin
from train.data.datasets import Int64Array
from train.evaluate.calibration import (
    Bin,
    Float64Array,
    check_logits,
    expected_calibration_error,
    log_probabilities,
    reliability,
)
from train.evaluate.robustness.measuring import Disturbance
from train.evaluate.verdict import MIN_VALIDATION_IMAGES, Verdict, judge

FILE_NAME = "report.json"
ANNEALED = 0.05  # fraction of the highest learning rate at which a schedule has ended
MAX_MISTAKES = 40  # five rows of eight pictures


@dataclass(frozen=True)
class Epoch:
    """Metrics of one pass over the training images.

    Attributes:
        number: From 1.
        loss: Mean cross-entropy, in nats, during the epoch, with dropout and augmentation.
        accuracy: Fraction, during the epoch.
        validation_loss: After the epoch, as `validation_accuracy`; `None` without the split.
        learning_rate: At the end of the epoch.
        seconds: Duration of training and validation.
    """

    number: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Predictions:
    """A model's output for the images of a split.

    `logits` are float32, shape `(n, classes)`, before temperature and softmax; `labels` are int64,
    shape `(n,)`.
    """

    logits: Float32Array
    labels: Int64Array


@dataclass(frozen=True)
class SplitMetrics:
    """Metrics of one split.

    Attributes:
        loss: Mean cross-entropy, in nats, of the stored model's probabilities.
        raw_loss: The same without temperature scaling, as tutorials report it.
        margin: Two standard errors of the accuracy.
    """

    images: int
    accuracy: float
    loss: float
    raw_loss: float
    margin: float


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class of the test split.

    Attributes:
        precision: `None` if no image is predicted as this class.
        recall: `None` if there is no image of this class.
        f1: Harmonic mean of both; `None` if neither exists.
        support: Number of images of this class.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Mistake:
    """A wrong prediction for a test image: indices of the image, its class and the predicted class.

    `confidence` is the probability of the predicted class, after temperature scaling.
    """

    index: int
    true: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Calibration:
    """Calibration on the test split before and after temperature scaling."""

    temperature: float
    error_before: float
    error_after: float
    bins_before: tuple[Bin, ...]
    bins_after: tuple[Bin, ...]


class Evaluation(BaseModel):
    """All metrics of a model; stored as `report.json` in its folder."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    report_version: Literal[1] = 1
    dataset: str
    architecture: str
    class_names: tuple[str, ...]
    train: SplitMetrics | None = Field(
        default=None, description="`None` if the model was imported, as `verdict`."
    )
    validation: SplitMetrics | None = None
    test: SplitMetrics
    extra: SplitMetrics | None = Field(
        default=None, description="Of the user's own pictures that were added to the training."
    )
    verdict: Verdict | None = None
    calibration: Calibration
    classes: tuple[ClassMetrics, ...] = Field(description="In the order of `class_names`.")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Test images: rows are true classes, columns predicted."
    )
    mistakes: tuple[Mistake, ...] = Field(
        description=f"The {MAX_MISTAKES} mistakes with the highest confidence, in falling order."
    )
    robustness: tuple[Disturbance, ...] = Field(
        default=(), description="Answers to disturbed test images; the first row is undisturbed."
    )
    history: tuple[Epoch, ...] = ()
    best_epoch: int | None = Field(
        default=None, description="The epoch whose weights the model has."
    )

    def save(self, folder: Path) -> None:
        """Write `report.json` into a folder."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def with_robustness(self, disturbances: Sequence[Disturbance]) -> "Evaluation":
        """Return this evaluation with the answers to disturbed images."""
        return self.model_copy(update={"robustness": tuple(disturbances)})

    @classmethod
    def load(cls, folder: Path) -> "Evaluation":
        """Read `report.json` from a folder; raise `OSError` or `ValueError` if that fails."""
        return cls.model_validate_json((folder / FILE_NAME).read_bytes())


def evaluate(
    *,
    dataset: str,
    architecture: str,
    class_names: Sequence[str],
    train: Predictions | None,
    test: Predictions,
    validation: Predictions | None = None,
    extra: Predictions | None = None,
    history: Sequence[Epoch] = (),
    best_epoch: int | None = None,
    temperature: float = 1.0,
) -> Evaluation:
    """Evaluate a model from its predictions.

    `train` is for images without augmentation; without it, there is no verdict. `best_epoch` is
    the last one by default. The stored model divides its logits by `temperature`.

    Raises:
        ProgramFailed: If a logit is NaN or infinite.
    """
    splits = {"train": train, "validation": validation, "test": test, "extra": extra}
    metrics = _metrics({name: split for name, split in splits.items() if split}, temperature)
    best_epoch = best_epoch or (history[-1].number if history else None)
    predicted = test.logits.argmax(axis=1)
    confidence = np.exp(log_probabilities(test.logits, temperature)).max(axis=1)
    matrix = confusion_matrix(test.labels, predicted, labels=range(len(class_names)))
    return Evaluation(
        dataset=dataset,
        architecture=architecture,
        class_names=tuple(class_names),
        train=metrics.get("train"),
        validation=metrics.get("validation"),
        test=metrics["test"],
        extra=metrics.get("extra"),
        verdict=_verdict(metrics, history, best_epoch, majority(train.labels)) if train else None,
        calibration=_calibration(test, temperature),
        classes=_class_metrics(test.labels, predicted, class_names),
        confusion=tuple(map(tuple, matrix.tolist())),
        mistakes=_mistakes(test.labels, predicted, confidence),
        history=tuple(history),
        best_epoch=best_epoch,
    )


def _metrics(splits: Mapping[str, Predictions], temperature: float) -> dict[str, SplitMetrics]:
    for name, predictions in splits.items():
        check_logits(name, predictions.logits)
    return {name: split_metrics(split, temperature) for name, split in splits.items()}


def split_metrics(predictions: Predictions, temperature: float) -> SplitMetrics:
    """Return the metrics of one split."""
    labels = predictions.labels
    accuracy = float((predictions.logits.argmax(axis=1) == labels).mean())

    def loss(divisor: float) -> float:
        of_label = log_probabilities(predictions.logits, divisor)[np.arange(len(labels)), labels]
        return float(-of_label.mean())

    return SplitMetrics(
        len(labels), accuracy, loss(temperature), loss(1.0), margin(accuracy, len(labels))
    )


def validation_losses(history: Sequence[Epoch]) -> tuple[float, ...]:
    """Return the validation loss after each epoch; empty without a validation split."""
    return tuple(epoch.validation_loss for epoch in history if epoch.validation_loss is not None)


def majority(labels: Int64Array) -> float:
    """Return the accuracy, 0..1, of always predicting the most frequent class."""
    return float(np.bincount(labels).max() / len(labels))


def _verdict(
    metrics: Mapping[str, SplitMetrics],
    history: Sequence[Epoch],
    best_epoch: int | None,
    baseline: float,
) -> Verdict:
    rates = [epoch.learning_rate for epoch in history]
    validated = "validation" in metrics and metrics["validation"].images >= MIN_VALIDATION_IMAGES
    return judge(
        metrics["train"].accuracy,
        metrics["test"].accuracy,
        metrics["test"].images,
        validation_losses(history) if validated else (),
        best_epoch or 0,
        baseline=baseline,
        annealed=bool(rates) and rates[-1] < ANNEALED * max(rates),
    )


def _calibration(test: Predictions, temperature: float) -> Calibration:
    before = np.exp(log_probabilities(test.logits))
    after = np.exp(log_probabilities(test.logits, temperature))
    return Calibration(
        temperature=temperature,
        error_before=expected_calibration_error(before, test.labels),
        error_after=expected_calibration_error(after, test.labels),
        bins_before=reliability(before, test.labels),
        bins_after=reliability(after, test.labels),
    )


def _class_metrics(
    labels: Int64Array, predicted: Int64Array, class_names: Sequence[str]
) -> tuple[ClassMetrics, ...]:
    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=range(len(class_names)), zero_division=np.nan
    )
    rows = zip(class_names, precision, recall, f1, support.tolist(), strict=True)
    return tuple(
        ClassMetrics(name, _optional(p), _optional(r), _optional(f), count)
        for name, p, r, f, count in rows
    )


def _optional(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mistakes(
    labels: Int64Array, predicted: Int64Array, confidence: Float64Array
) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:MAX_MISTAKES]
    return tuple(
        Mistake(index, int(labels[index]), int(predicted[index]), float(confidence[index]))
        for index in worst.tolist()
    )
