"""Calibration: how well confidence matches accuracy, and the temperature that improves it."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array
from train.data.datasets import Int64Array

Float64Array: TypeAlias = NDArray[np.float64]

# Bins of equal width. Source: Guo et al., "On Calibration of Modern Neural Networks", 2017.
BINS = 15
TEMPERATURES = (0.05, 20.0)  # limits; beyond them, confidence is all or nothing
# Nats that the whole validation split must gain: in 19 of 20 trainings, chance gains a calibrated
# model less. Half the 95 % quantile of chi-squared with one degree of freedom (Wilks, 1938).
MIN_GAIN = 1.92


@dataclass(frozen=True)
class Bin:
    """Mean confidence and accuracy of the images with a confidence between `lower` and `upper`."""

    lower: float
    upper: float
    confidence: float
    accuracy: float
    count: int


def fit_temperature(logits: Float32Array, labels: Int64Array) -> float:
    """Return the temperature that calibrates probabilities when logits are divided by it.

    It minimises the cross-entropy, with a weak prior around 1 (`log T` ~ standard normal, the
    weight of one image). Without the prior, a model that makes no mistake on the validation split
    would get a confidence of 1 for everything. It is 1 unless another value lowers the
    cross-entropy by more than chance explains, and the calibration error too.

    Args:
        logits: float32, shape `(n, classes)`, of the validation split, never of training or test
            images.
        labels: int64, shape `(n,)`.

    Raises:
        ProgramFailed: If a logit is NaN or infinite.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.
    """
    check_logits("validation", logits)
    rows = np.arange(len(labels))

    def objective(log_temperature: float) -> float:
        losses = -log_probabilities(logits, float(np.exp(log_temperature)))[rows, labels]
        return float(losses.sum() + log_temperature**2 / 2)

    def error(temperature: float) -> float:
        return expected_calibration_error(np.exp(log_probabilities(logits, temperature)), labels)

    best = minimize_scalar(objective, bounds=np.log(TEMPERATURES), method="bounded")
    temperature = float(np.exp(best.x))
    helps = objective(0.0) - best.fun > MIN_GAIN and error(temperature) < error(1.0)
    return temperature if helps else 1.0


def log_probabilities(logits: Float32Array, temperature: float = 1.0) -> Float64Array:
    """Return log-probabilities `(n, classes)`, finite even where a probability rounds to 0."""
    return np.asarray(log_softmax(logits.astype(np.float64) / temperature, axis=1), np.float64)


def check_logits(split: str, logits: Float32Array) -> None:
    """Raise `ProgramFailed` if a logit is NaN or infinite."""
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(wrong):
        raise ProgramFailed(
            f"The model returns NaN or infinity for {len(wrong):,} of {len(logits):,} images of "
            f"the {split} split, first for image {wrong[0]:,}. Lower the learning rate or choose "
            "another optimizer.",
            code="invalid_logits",
        )


def expected_calibration_error(probabilities: NDArray[np.floating], labels: Int64Array) -> float:
    """Return the mean difference of confidence and accuracy, 0..1, over `BINS` weighted bins.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", 2015.
    """
    bins = reliability(probabilities, labels)
    return sum(abs(bar.confidence - bar.accuracy) * bar.count for bar in bins) / len(labels)


def reliability(probabilities: NDArray[np.floating], labels: Int64Array) -> tuple[Bin, ...]:
    """Return the bins that hold images, from the lowest to the highest confidence.

    `probabilities` have the shape `(n, classes)`, and their rows sum to 1.
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
