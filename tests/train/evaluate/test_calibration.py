"""Calibration: known errors and known temperatures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array
from train.data.datasets import Int64Array
from train.evaluate.calibration import (
    BINS,
    TEMPERATURES,
    expected_calibration_error,
    fit_temperature,
    log_probabilities,
    reliability,
)


def calibrated(images: int, classes: int, seed: int) -> tuple[Float32Array, Int64Array]:
    """Return logits, and labels drawn with their probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (images, classes)).astype(np.float32)
    cumulated = np.exp(log_probabilities(logits)).cumsum(axis=1)
    return logits, (random.random((images, 1)) > cumulated[:, :-1]).sum(axis=1)


@given(factor=st.floats(0.3, 8), classes=st.integers(2, 12), seed=st.integers(0, 1000))
def test_the_temperature_is_the_factor_of_scaled_calibrated_logits(
    factor: float, classes: int, seed: int
) -> None:
    logits, labels = calibrated(4000, classes, seed)

    assert fit_temperature(logits * np.float32(factor), labels) == pytest.approx(factor, rel=0.12)


def test_logits_times_three_have_a_temperature_of_three() -> None:
    logits, labels = calibrated(20_000, 10, seed=1)

    assert fit_temperature(logits * 3, labels) == pytest.approx(3, rel=0.03)


def test_scaling_reduces_the_calibration_error() -> None:
    logits, labels = calibrated(4000, 10, seed=2)
    before = expected_calibration_error(np.exp(log_probabilities(logits * 3)), labels)
    temperature = fit_temperature(logits * 3, labels)

    assert before > 0.1
    assert (
        expected_calibration_error(np.exp(log_probabilities(logits * 3, temperature)), labels)
        < 0.02
    )


def test_a_model_without_mistakes_does_not_become_certain() -> None:
    labels = np.arange(100) % 10
    logits = np.eye(10, dtype=np.float32)[labels] * 6

    assert 0.3 < fit_temperature(logits, labels) < 1


@pytest.mark.parametrize("images", [10, 100, 1000, 5000])
def test_calibrated_logits_are_not_scaled_by_chance(images: int) -> None:
    temperatures = [fit_temperature(*calibrated(images, 10, seed)) for seed in range(50)]

    assert sum(temperature != 1.0 for temperature in temperatures) <= 5


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30, 3e38])
def test_extreme_logits_have_a_temperature_within_the_limits(size: float) -> None:
    wrong_and_sure = np.array([[size, -size], [-size, size], [size, -size]], np.float32)
    temperature = fit_temperature(wrong_and_sure, np.array([1, 0, 0]))

    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]


def test_without_images_the_temperature_is_1() -> None:
    none = np.zeros((0, 10), np.float32)

    assert fit_temperature(none, np.zeros(0, np.int64)) == pytest.approx(1, abs=1e-4)


def test_logits_of_nan_or_infinity_are_refused() -> None:
    logits = np.zeros((5, 3), np.float32)
    logits[2, 1], logits[4, 0] = np.nan, np.inf
    with pytest.raises(ProgramFailed, match=r"2 of 5 .*validation split.* image 2\.") as raised:
        fit_temperature(logits, np.zeros(5, np.int64))

    assert raised.value.code == "invalid_logits"


def test_the_error_is_the_mean_difference_of_confidence_and_accuracy() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.3, 0.7]])
    labels = np.array([0, 0, 1, 1])  # 2 of 3 right at 0.9, 1 of 1 at 0.7

    assert expected_calibration_error(probabilities, labels) == pytest.approx(
        3 / 4 * (0.9 - 2 / 3) + 1 / 4 * 0.3
    )


def test_a_certain_model_has_error_0_if_right_and_1_if_wrong() -> None:
    assert expected_calibration_error(np.eye(4, dtype=np.float32), np.arange(4)) == 0
    assert expected_calibration_error(np.eye(4, dtype=np.float32), np.arange(4)[::-1]) == 1


def test_bins_hold_confidence_accuracy_and_count() -> None:
    probabilities = np.array([[0.9, 0.1], [0.88, 0.12], [1.0, 0.0], [0.45, 0.55]])

    bins = reliability(probabilities, np.array([0, 1, 0, 0]))

    assert [round(bar.lower * BINS) for bar in bins] == [8, 13, 14]
    assert [round(bar.upper * BINS) for bar in bins] == [9, 14, 15]
    assert [bar.confidence for bar in bins] == pytest.approx([0.55, 0.89, 1])
    assert [bar.accuracy for bar in bins] == [0, 0.5, 1]
    assert [bar.count for bar in bins] == [1, 2, 1]


@given(classes=st.integers(2, 30), images=st.integers(1, 300), seed=st.integers(0, 1000))
def test_every_image_is_in_the_bin_of_its_confidence(classes: int, images: int, seed: int) -> None:
    logits, labels = calibrated(images, classes, seed)
    bins = reliability(np.exp(log_probabilities(logits)), labels)

    assert sum(bar.count for bar in bins) == images
    for bar in bins:
        assert bar.count > 0
        assert bar.lower - 1e-9 <= bar.confidence <= bar.upper + 1e-9
        assert 0 <= bar.accuracy <= 1
