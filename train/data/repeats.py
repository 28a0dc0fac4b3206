"""Images of the training split that are in another split, too, so that it measures too much."""

from dataclasses import dataclass

import numpy as np

from loupe.images.spec import Float32Array
from train.data.splits import Dataset, Split

MAX_DIFFERENCE = 6.0  # grey levels, root mean square, of the same picture saved in two ways
MAX_COMPARED = 8 * 10**10  # pixels of all pairs; more would take longer than some trainings
BLOCK = 512  # images compared at a time


@dataclass(frozen=True)
class Repeat:
    """An image of a split that is a training image, too.

    Attributes:
        split: `validation` or `test`.
        name: Its file or number.
        training_name: That of the training image.
        identical: Whether all pixels are the same.
        same_label: Whether both have the same class.
    """

    split: str
    name: str
    training_name: str
    identical: bool
    same_label: bool


def find_repeats(dataset: Dataset) -> list[Repeat]:
    """Return the images of the validation and test splits that the training split has, too.

    Nearly identical images count, too, unless all pairs have more than `MAX_COMPARED` pixels.
    """
    found, train = [], dataset.train
    for name in ("validation", "test"):
        split = dataset.splits().get(name)
        if split is None:
            continue
        identical = _find_identical(split, train)
        for row, training_row in sorted({**_find_near(split, train), **identical}.items()):
            found.append(
                Repeat(
                    name,
                    split.name_of(row),
                    train.name_of(training_row),
                    identical=row in identical,
                    same_label=bool(split.labels[row] == train.labels[training_row]),
                )
            )
    return found


def _find_identical(split: Split, train: Split) -> dict[int, int]:
    """Return rows of a split with the row of the same image in the training split."""
    rows = {image.tobytes(): row for row, image in enumerate(train.images)}
    keys = [image.tobytes() for image in split.images]
    return {row: rows[key] for row, key in enumerate(keys) if key in rows}


def _find_near(split: Split, train: Split) -> dict[int, int]:
    """Return rows of a split with the row of the nearest training image, if that is near enough."""
    if split.images.size * len(train.labels) > MAX_COMPARED:
        return {}
    known = _flat(train)
    found: dict[int, int] = {}
    limit = MAX_DIFFERENCE**2 * known.shape[1]
    squares = np.square(known).sum(axis=1)
    for start in range(0, len(split.labels), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(split.labels)))
        images = _flat(split.take(rows))
        # ‖a − b‖² = ‖a‖² + ‖b‖² − 2 a·b
        distances = np.square(images).sum(axis=1)[:, None] + squares - 2 * images @ known.T
        nearest = distances.argmin(axis=1)
        near = distances[np.arange(len(rows)), nearest] <= limit
        found |= dict(zip(rows[near].tolist(), nearest[near].tolist(), strict=True))
    return found


def _flat(split: Split) -> Float32Array:
    return split.images.reshape(len(split.labels), -1).astype(np.float32)
