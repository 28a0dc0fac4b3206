"""Calibration: whether a model that says 0.9 is right nine times in ten, and how to make it so."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from loupe.images.spec import Float32Array
from loupe.old_errors.train import InvalidLogits
from train.data.datasets import Int64Array

Float64Array: TypeAlias = NDArray[np.float64]

BINS = 15  # of confidence, of equal width. Source: Guo et al., "On Calibration of Modern Neural Networks", 2017
TEMPERATURES = (0.05, 20.0)  # further out, a classifier has no confidence left to scale


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies between `lower` and `upper`: how sure the model is of them, and how often right."""

    lower: float
    upper: float
    confidence: float
    accuracy: float
    count: int


def fit_temperature(logits: Float32Array, labels: Int64Array) -> float:
    """The temperature by which to divide logits so that the probabilities are calibrated; above 1 it makes the model less sure.

    It minimises the cross-entropy, with a faint prior around 1 (`log T` ~ standard normal) that weighs as much as one image does.
    Without it, a model that makes no mistake on the validation split would be scaled until it is never in doubt again.

    Args:
        logits: float32, shape `(n, classes)`, of the validation split: never of images that were trained on, nor of the test split.
        labels: int64, shape `(n,)`.

    Raises:
        InvalidLogits: If a logit is NaN or infinite.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    check_logits("validation", logits)

    def objective(log_temperature: float) -> float:
        losses = -log_probabilities(logits, float(np.exp(log_temperature)))[
            np.arange(len(labels)), labels
        ]
        return float(losses.sum() + log_temperature**2 / 2)

    low, high = np.log(TEMPERATURES)
    return float(np.exp(minimize_scalar(objective, bounds=(low, high), method="bounded").x))


def log_probabilities(logits: Float32Array, temperature: float = 1.0) -> Float64Array:
    """The logarithms of the probabilities, float64 `(n, classes)`; finite where a probability itself would round to zero."""
    return np.asarray(log_softmax(logits.astype(np.float64) / temperature, axis=1), np.float64)


def check_logits(split: str, logits: Float32Array) -> None:
    """`InvalidLogits`, naming the split and the first image, if a logit is NaN or infinite."""
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        raise InvalidLogits(split, len(wrong), len(logits), int(wrong[0]))


def expected_calibration_error(probabilities: NDArray[np.floating], labels: Int64Array) -> float:
    """Mean distance between confidence and accuracy, 0..1, over `BINS` bins weighted by their images.

    Args:
        probabilities: Shape `(n, classes)`; rows sum to 1.
        labels: int64, shape `(n,)`.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    return sum(
        abs(bar.confidence - bar.accuracy) * bar.count for bar in reliability(probabilities, labels)
    ) / len(labels)


def reliability(probabilities: NDArray[np.floating], labels: Int64Array) -> tuple[Bin, ...]:
    """Confidence against accuracy, from the least to the most sure; bins without an image are left out.

    Args:
        probabilities: Shape `(n, classes)`; rows sum to 1.
        labels: int64, shape `(n,)`.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return tuple(
        Bin(
            lower=number / BINS,
            upper=(number + 1) / BINS,
            confidence=float(confidence[bins == number].mean()),
            accuracy=float(right[bins == number].mean()),
            count=int((bins == number).sum()),
        )
        for number in np.unique(bins).tolist()
    )
