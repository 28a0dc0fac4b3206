"""The last steps before a model is saved: accuracy, agreement of its engines, prediction sets."""

import numpy as np

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.certainty import Conformal
from loupe.models.engines.engine import Classifier
from train.data.datasets import Dataset, Split
from train.evaluate.evaluation import majority

# Models of these data sets are better unless something went wrong; models of others must only be
# better than always predicting the most frequent class.
MIN_ACCURACY = {"fashion-mnist": 0.80, "mnist": 0.90, "digits": 0.80}

TOLERANCE = 1e-4  # maximum difference of probabilities; float32 rounding is a hundred times less
COMPARISON_BATCH = 512  # images


def check_accuracy(accuracy: float, minimum: float) -> None:
    """Raise `ProgramFailed` if a test accuracy is below a minimum."""
    # NaN is below every minimum, and no accuracy reaches a minimum of NaN.
    if not accuracy >= minimum:
        raise ProgramFailed(
            f"The test accuracy is {accuracy:.6g}, {minimum - accuracy:.6g} below the minimum of "
            f"{minimum:.6g} (--min-accuracy). The model was not saved.",
            code="accuracy_too_low",
        )


def default_min_accuracy(dataset: Dataset) -> float:
    """Return the minimum test accuracy of the models of a data set."""
    return MIN_ACCURACY.get(dataset.name, majority(dataset.test.labels))


def compare(reference: Classifier, engine: Classifier, images: UInt8Array) -> float:
    """Return the largest difference between two engines' probabilities.

    Raises:
        ProgramFailed: If it exceeds `TOLERANCE`, or a label differs although the reference's two
            best classes are further apart than that.
    """
    expected, received = predict_all(reference, images), predict_all(engine, images)
    difference = float(np.abs(expected - received).max(initial=0.0))
    best_two = np.sort(expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > TOLERANCE
    labels = int((expected.argmax(axis=1) != received.argmax(axis=1))[clear].sum())
    if not difference <= TOLERANCE or labels:  # `not <=` refuses NaN too
        raise ProgramFailed(
            f"The stored model disagrees with the original on {len(images):,} images: "
            f"probabilities differ by {difference:.2g} (at most {TOLERANCE:g} is allowed), and "
            f"{labels} labels differ. The model was not saved.",
            code="engines_disagree",
        )
    return difference


def conformal_of(engine: Classifier, split: Split) -> Conformal:
    """Calibrate the prediction sets of a model with images that it did not learn."""
    return Conformal.of(predict_all(engine, split.images), split.labels)


def predict_all(engine: Classifier, images: UInt8Array) -> Float32Array:
    """Return the probabilities of any number of images, float32 `(n, classes)`."""
    starts = range(0, len(images), COMPARISON_BATCH)
    batches = [images[start : start + COMPARISON_BATCH] for start in starts]
    return np.concatenate([engine.predict(batch) for batch in batches])
