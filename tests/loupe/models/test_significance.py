"""Which differences between accuracies count."""

import numpy as np
import pytest

from loupe.models.significance import margin, noise


def test_noise_covers_19_of_20_differences_of_equal_models(random: np.random.Generator) -> None:
    images, accuracy = 2_000, 0.93
    first, second = random.binomial(images, accuracy, (2, 4_000)) / images
    within = [abs(a - b) <= noise(a, b, images) for a, b in zip(first, second, strict=True)]

    assert np.mean(within) == pytest.approx(0.95, abs=0.015)


def test_noise_is_larger_than_each_margin_and_falls_with_the_images() -> None:
    assert noise(0.9, 0.95, 1_000) > margin(0.9, 1_000) > margin(0.95, 1_000)
    assert noise(0.9, 0.95, 1_000) > noise(0.9, 0.95, 10_000)
    assert noise(1.0, 1.0, 100) > 0
