"""Familiarity of distances, and prediction sets: their coverage, and the same sets as MAPIE's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from loupe.images.spec import Float32Array
from loupe.models.certainty import MAX_KEPT, Conformal, Familiarity

CLASSES = 10
DISTANCES = st.floats(-4, 4, width=16)  # so that some are equal


@given(st.lists(DISTANCES, min_size=2), st.lists(DISTANCES, min_size=2))
def test_an_image_is_as_familiar_alone_as_in_a_batch(
    known: list[float], asked: list[float]
) -> None:
    familiarity = Familiarity(distances=tuple(sorted(known)), images=len(known))
    distances = np.array(asked, np.float32)
    alone = np.concatenate([familiarity.of(distances[[row]]) for row in range(len(asked))])

    np.testing.assert_allclose(alone, familiarity.of(distances), atol=1e-6)


def calibrated_rows(count: int, seed: int) -> tuple[Float32Array, NDArray[np.int64]]:
    """Return probabilities, and true classes that are drawn with them."""
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.full(CLASSES, 0.1), count).astype(np.float32)
    labels = (rows.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)
    return rows, np.minimum(labels, CLASSES - 1)


@pytest.mark.parametrize("count", [100, MAX_KEPT, 5_000])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
def test_sets_contain_the_true_class_as_often_as_promised(count: int, alpha: float) -> None:
    rows, labels = calibrated_rows(20_000, seed=1)
    known = Conformal.of(*calibrated_rows(count, seed=0))
    covered = np.mean(rows[np.arange(len(rows)), labels] >= known.lowest(alpha))

    assert len(known.probabilities) <= MAX_KEPT
    spread = 4 * np.sqrt(alpha * (1 - alpha) / count)  # of calibration sets of this size
    assert 1 - alpha - spread <= covered <= 1 - alpha + spread + 2 / min(count, MAX_KEPT)


def test_the_lowest_probability_is_that_of_the_rank_in_the_formula() -> None:
    rows, labels = calibrated_rows(99, seed=2)
    true = np.sort(rows[np.arange(99), labels])[::-1]
    known = Conformal.of(rows, labels)

    assert known.lowest(0.05) == true[94]  # of 100 * 0.95 images, the last
    assert known.lowest(0.5) == true[49]
    assert known.lowest(0.005) == 0


def test_sets_are_those_of_mapie() -> None:
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Rows(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose inputs are its probabilities."""

        classes_ = np.arange(CLASSES)

        def fit(self, rows: Float32Array, labels: NDArray[np.int64]) -> "Rows":
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict_proba(self, rows: Float32Array) -> Float32Array:
            return rows

        def predict(self, rows: Float32Array) -> NDArray[np.int64]:
            return np.asarray(rows.argmax(axis=1))

    known, (rows, _) = calibrated_rows(800, seed=3), calibrated_rows(2_000, seed=4)
    ours = Conformal.of(*known)
    for alpha in (0.02, 0.05, 0.1, 0.3):
        theirs = SplitConformalClassifier(
            Rows(), confidence_level=1 - alpha, conformity_score="lac", prefit=True
        )
        theirs.conformalize(*known)
        _, sets = theirs.predict_set(rows)
        np.testing.assert_array_equal(rows >= ours.lowest(alpha), sets[:, :, 0])
