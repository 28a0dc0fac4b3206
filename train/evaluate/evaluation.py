"""Evaluation: all that is measured of a trained model, from plain arrays; `report.json` in the model's folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from loupe.images.spec import Float32Array
from train.data.datasets import Int64Array
from train.evaluate.calibration import (
    Bin,
    check_logits,
    expected_calibration_error,
    log_probabilities,
    reliability,
)
from train.evaluate.verdict import Verdict, judge, margin

FILE_NAME = "report.json"
WORST = 40  # mistakes that are kept: five rows of eight pictures


@dataclass(frozen=True)
class Epoch:
    """What was seen of one pass over the training images.

    Attributes:
        number: From 1.
        loss: Mean cross-entropy, in nats, while the weights still changed; with dropout and augmentation on.
        accuracy: Fraction, while the weights still changed.
        validation_loss: After the epoch; `None` without a validation split.
        validation_accuracy: After the epoch; `None` without a validation split.
        learning_rate: At the end of the epoch.
        seconds: Of training and validation.
    """

    number: int
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Answers:
    """What a model answers to the images of a split.

    `logits` are float32, shape `(n, classes)`, before temperature and softmax; `labels` are int64, shape `(n,)`.
    """

    logits: Float32Array
    labels: Int64Array


@dataclass(frozen=True)
class Measured:
    """Figures on one split.

    Attributes:
        loss: Mean cross-entropy, in nats, of the probabilities that the stored model gives.
        raw_loss: The same before temperature scaling, as tutorials report it.
        margin: Two standard errors of the accuracy.
    """

    images: int
    accuracy: float
    loss: float
    raw_loss: float
    margin: float


@dataclass(frozen=True)
class ClassFigures:
    """Figures on one class of the test split.

    Attributes:
        precision: Of the images that were called this class, the share that is; `None` where none was.
        recall: Of the images of this class, the share that was called so; `None` where there is none.
        f1: The harmonic mean of both; `None` where there is neither.
        support: Images of this class.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True)
class Mistake:
    """A test image whose best class is wrong.

    Attributes:
        index: Of the image in the test split.
        true: Index of the class it is of.
        predicted: Index of the class it was taken for.
        confidence: Probability of that class, after temperature scaling.
    """

    index: int
    true: int
    predicted: int
    confidence: float


@dataclass(frozen=True)
class Calibration:
    """Whether the confidence on the test split can be taken at its word, before and after temperature scaling."""

    temperature: float
    error_before: float
    error_after: float
    bins_before: tuple[Bin, ...]
    bins_after: tuple[Bin, ...]


class Evaluation(BaseModel):
    """Everything that was measured of a model; `report.json` beside its files."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    report_version: Literal[1] = 1
    dataset: str
    architecture: str
    class_names: tuple[str, ...]
    train: Measured
    validation: Measured | None = None
    test: Measured
    extra: Measured | None = Field(
        default=None, description="On the user's own pictures that were mixed into training."
    )
    verdict: Verdict
    calibration: Calibration
    classes: tuple[ClassFigures, ...] = Field(description="In the order of `class_names`.")
    confusion: tuple[tuple[int, ...], ...] = Field(
        description="Test images: rows are true classes, columns predicted."
    )
    mistakes: tuple[Mistake, ...] = Field(
        description=f"The {WORST} most confident ones, worst first."
    )
    history: tuple[Epoch, ...] = ()
    best_epoch: int | None = Field(
        default=None, description="The epoch whose weights the model has."
    )

    def save(self, folder: Path) -> None:
        """Write `report.json` into a folder."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Evaluation":
        """Read `report.json` from a folder; `OSError` or `ValueError` if it is not there or no evaluation."""
        return cls.model_validate_json((folder / FILE_NAME).read_bytes())


def evaluate(
    *,
    dataset: str,
    architecture: str,
    class_names: Sequence[str],
    train: Answers,
    test: Answers,
    validation: Answers | None = None,
    extra: Answers | None = None,
    history: Sequence[Epoch] = (),
    best_epoch: int | None = None,
    temperature: float = 1.0,
) -> Evaluation:
    """Measure a model by its answers.

    Args:
        train: To the images it was trained on, not augmented.
        best_epoch: The epoch whose weights the model has; the last one if not given.
        temperature: By which the stored model divides its logits.

    Raises:
        InvalidLogits: If an answer is NaN or infinite.
    """
    for split, answers in (
        ("train", train),
        ("validation", validation),
        ("test", test),
        ("extra", extra),
    ):
        if answers is not None:
            check_logits(split, answers.logits)
    best_epoch = best_epoch or (history[-1].number if history else None)
    on_train, on_test = measure(train, temperature), measure(test, temperature)
    return Evaluation(
        dataset=dataset,
        architecture=architecture,
        class_names=tuple(class_names),
        train=on_train,
        validation=measure(validation, temperature) if validation else None,
        test=on_test,
        extra=measure(extra, temperature) if extra else None,
        verdict=judge(
            on_train.accuracy,
            on_test.accuracy,
            on_test.images,
            validation_losses(history),
            best_epoch or 0,
        ),
        calibration=_calibration(test, temperature),
        classes=_classes(test, class_names),
        confusion=_confusion(test, len(class_names)),
        mistakes=_mistakes(test, temperature),
        history=tuple(history),
        best_epoch=best_epoch,
    )


def measure(answers: Answers, temperature: float) -> Measured:
    """The figures on one split."""
    labels = answers.labels
    right = answers.logits.argmax(axis=1) == labels
    accuracy = float(right.mean())

    def loss(divisor: float) -> float:
        return float(
            -log_probabilities(answers.logits, divisor)[np.arange(len(labels)), labels].mean()
        )

    return Measured(
        len(labels), accuracy, loss(temperature), loss(1.0), margin(accuracy, len(labels))
    )


def validation_losses(history: Sequence[Epoch]) -> tuple[float, ...]:
    """The validation loss after each epoch; empty where no images were held back."""
    return tuple(epoch.validation_loss for epoch in history if epoch.validation_loss is not None)


def _calibration(test: Answers, temperature: float) -> Calibration:
    before, after = (
        np.exp(log_probabilities(test.logits)),
        np.exp(log_probabilities(test.logits, temperature)),
    )
    return Calibration(
        temperature=temperature,
        error_before=expected_calibration_error(before, test.labels),
        error_after=expected_calibration_error(after, test.labels),
        bins_before=reliability(before, test.labels),
        bins_after=reliability(after, test.labels),
    )


def _classes(test: Answers, class_names: Sequence[str]) -> tuple[ClassFigures, ...]:
    precision, recall, f1, support = precision_recall_fscore_support(
        test.labels,
        test.logits.argmax(axis=1),
        labels=range(len(class_names)),
        zero_division=np.nan,
    )
    rows = zip(class_names, precision, recall, f1, support.tolist(), strict=True)
    return tuple(
        ClassFigures(name, _number(p), _number(r), _number(f), count)
        for name, p, r, f, count in rows
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _confusion(test: Answers, classes: int) -> tuple[tuple[int, ...], ...]:
    matrix: NDArray[np.int64] = confusion_matrix(
        test.labels, test.logits.argmax(axis=1), labels=range(classes)
    )
    return tuple(tuple(row) for row in matrix.tolist())


def _mistakes(test: Answers, temperature: float) -> tuple[Mistake, ...]:
    probabilities = np.exp(log_probabilities(test.logits, temperature))
    predicted = test.logits.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != test.labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:WORST]
    return tuple(
        Mistake(index, int(test.labels[index]), int(predicted[index]), float(confidence[index]))
        for index in worst.tolist()
    )
