"""The classes of a given model, and test images with labels that mean them."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.files import read_text
from loupe.images.spec import ImageSpec
from loupe.models.card import check_class_names
from train.data.datasets import Dataset, Int64Array, Split, load_dataset
from train.data.image_options import ImageOptions
from train.data.splits import quoted

RANGE = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")
CALIBRATION_FRACTION = 0.5  # of the test images, if there are no validation images


def parse_classes(text: str) -> tuple[str, ...]:
    """Return class names from `0-9`, `a,b,c`, or the path of a file with one in each line.

    Raises:
        InvalidUsage: If they cannot be the names of classes.
    """
    try:
        if match := RANGE.fullmatch(text):
            first, last = map(int, match.groups())
            names = tuple(map(str, range(first, last + 1)))
        elif "," in text:
            names = tuple(name.strip() for name in text.split(","))
        else:
            lines = read_text(Path(text)).rstrip().splitlines()
            names = tuple(line.strip() for line in lines)
        check_class_names(names)
        if len(names) < 2:
            raise ValueError("a classifier has at least two classes")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidUsage(
            f"--classes {text!r}: {reason}. Give a range as 0-9, names as cat,dog, or a text file "
            "with one name in each line, in the order of the model's outputs.",
            code="invalid_class_names",
        ) from error
    return names


def load_test(source: str, spec: ImageSpec, class_names: tuple[str, ...]) -> Dataset:
    """Return a data set whose test split measures a model.

    It is the source's own test split; of a source without one, it is all images.

    Raises:
        InvalidUsage: If there is no such data set.
        InvalidDataset: If its images or classes are not those of the model.
    """
    own = ImageOptions.of_model(spec)
    if not source.startswith("folder:"):  # arrays have colours or not
        own = own.model_copy(update={"colour": False})
    published = ImageOptions(look=spec.look)  # they have their own sizes, too
    dataset = load_dataset(source, options=own if ":" in source else published)
    if dataset.spec.shape != spec.shape:
        raise InvalidDataset(
            f"The model takes images of {spec} pixels; those of '{source}' have {dataset.spec}.",
            code="test_set_differs",
        )
    if dataset.test_from_train:
        dataset = replace(dataset, test=dataset.train.concatenate(dataset.test))
    columns = _columns(source, dataset.class_names, class_names)

    def relabelled(split: Split) -> Split:
        return Split(split.images, columns[split.labels], split.names)

    return replace(
        dataset,
        class_names=class_names,
        train=relabelled(dataset.train),
        test=relabelled(dataset.test),
        validation=relabelled(dataset.validation) if dataset.validation else None,
    )


def set_aside(dataset: Dataset, seed: int = 0) -> Dataset:
    """Return the data set with a validation split, taken from the test split if it has none."""
    if dataset.validation:
        return dataset
    test, validation = dataset.test.divide(CALIBRATION_FRACTION, seed)
    return replace(dataset, test=test, validation=validation)


def _columns(source: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Int64Array:
    """Return the model's column of each class of the test images."""
    if unknown := [name for name in theirs if name not in ours]:
        # Labels without names are numbers of columns.
        if theirs == tuple(map(str, range(len(theirs)))) and len(theirs) <= len(ours):
            return np.arange(len(theirs), dtype=np.int64)
        raise InvalidDataset(
            f"'{source}' has images of {quoted(unknown)}, which are no classes of the model. It "
            f"has {quoted(ours)}.",
            code="test_set_differs",
        )
    return np.array([ours.index(name) for name in theirs], np.int64)
