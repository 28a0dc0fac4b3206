"""Calibration: whether a model that says 0.9 is right nine times in ten, and how to make it so."""

import numpy as np

from loupe.images import Float32Array
from train.datasets import Int64Array

BINS = 15  # of confidence, of equal width. Source: Guo et al., "On Calibration of Modern Neural Networks", 2017


def expected_calibration_error(probabilities: Float32Array, labels: Int64Array) -> float:
    """Mean distance between confidence and accuracy, 0..1, over `BINS` bins weighted by their images.

    Args:
        probabilities: float32, shape `(n, classes)`; rows sum to 1.
        labels: int64, shape `(n,)`.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=BINS)
    return float(np.abs(gaps).sum() / len(labels))
