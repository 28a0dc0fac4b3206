"""A user's own data set in arrays: images and labels of each split, from files of any kind."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.files import printable, read_text
from loupe.images.header import MIN_SIDE
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.card import check_class_names
from loupe.settings import load_settings
from loupe.text import one_line
from train.data.image_options import ImageOptions
from train.data.own.folders import natural_order, slug
from train.data.splits import (
    SPLIT_SEED,
    TEST_FRACTION,
    Dataset,
    Int64Array,
    Split,
    check_bytes,
    check_classes,
    check_counts,
    listed,
)

CLASS_NAMES_FILE = "classes.txt"  # UTF-8, one name in each line, in the order of the labels
MAX_IMAGES = 1_000_000  # per split
SHAPES = (
    "(n, height, width), (n, height, width, 1 or 3), (n, 3, height, width), (n, side × side) or "
    "(n, side × side × 3)"
)

Labels: TypeAlias = NDArray[np.integer] | NDArray[np.str_]
"""Numbers of classes, or their names."""


@dataclass(frozen=True)
class Arrays:
    """One split as its files have it.

    Attributes:
        images: uint8, shape `(n, height, width)` or `(n, height, width, 3)`.
        labels: Integers or text, shape `(n,)`.
    """

    images: UInt8Array
    labels: Labels


def make_dataset(
    path: Path,
    splits: Mapping[str, Arrays],
    options: ImageOptions,
    *,
    class_names: tuple[str, ...] | None = None,
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """Return the data set of these splits; without `test`, a fraction becomes the test split.

    Images are normalised as pictures sent to the service are. This leaves photos of the wanted size
    as they are, and ink and objects on a dark background. The lines of `classes.txt` in the same
    folder name the classes in the order of the labels, which may start at 0 or 1; without it, the
    labels do.

    Args:
        path: The folder or file that the user named.
        splits: `train`, and possibly `validation` and `test`.
        options: Images to make of them.
        class_names: Names that the files have; `classes.txt` takes precedence.
        test_fraction: Fraction, 0..1, of the training images, if there is no test split.
        split_seed: Seed of that split.

    Raises:
        InvalidDataset: If the data set cannot be trained on.
    """
    for split, arrays in splits.items():
        check_lengths(path, split, len(arrays.images), len(arrays.labels))
    names, indices = _name_classes(path, splits, class_names)
    check_classes(str(path), names)
    found = {name: Split(arrays.images, indices[name]) for name, arrays in splits.items()}
    check_counts(str(path), {name: split.counts(names) for name, split in found.items()})
    spec = options.spec(_common_shape(path, splits))
    check_bytes(str(path), sum(len(split.labels) for split in found.values()), spec)
    found = {
        name: replace(split, images=_normalize(split.images, spec)) for name, split in found.items()
    }
    if "test" in found and test_fraction is not None:
        raise InvalidUsage(
            f"'{path}' has a test split, so it takes no test fraction.",
            code="invalid_dataset_option",
        )
    if "test" not in found:
        fraction = TEST_FRACTION if test_fraction is None else test_fraction
        found["train"], found["test"] = found["train"].divide(fraction, split_seed)
    name = path.resolve().name
    return Dataset(
        slug(name.partition(".")[0] or name),
        names,
        spec.look,
        train=found["train"],
        test=found["test"],
        validation=found.get("validation"),
        source=f"own arrays from {one_line(printable(name))}",
        test_from_train="test" not in splits,
        fit=spec.fit,
    )


def check_lengths(path: Path, split: str, images: int, labels: int) -> None:
    """Raise `InvalidDataset` unless a split has as many labels as images."""
    if images != labels:
        raise InvalidDataset(
            f"The {split} split of '{path}' has {images:,} images, but {labels:,} labels.",
            code="counts_differ",
        )


def image_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape `(n, height, width)` or `(n, height, width, 3)` of an array of images.

    Axes of length 1 do not count, colours may be the first axis of an image, as in PyTorch, and
    rows of pixels are squares.

    Raises:
        ValueError: If it cannot be one of images that Loupe trains on.
    """
    count, sides = shape[0], _sides(shape)
    if len(sides) == 1:
        sides = _square(sides[0])
    elif _has_planes(sides):
        sides = [*sides[1:], 3]
    if len(sides) not in (2, 3) or sides[2:] not in ([], [3]) or min(sides[:2]) < MIN_SIDE:
        raise ValueError(
            f"images must have the shape {SHAPES}, with sides of at least {MIN_SIDE} pixels, not "
            f"{tuple(shape)}"
        )
    height, width = sides[:2]
    if height * width > (limit := load_settings().max_image_pixels):
        raise ValueError(
            f"images of {height:,} × {width:,} have more than {limit:,} pixels "
            "(LOUPE_MAX_IMAGE_PIXELS)"
        )
    if count > MAX_IMAGES:
        raise ValueError(f"it holds {count:,} items; the limit is {MAX_IMAGES:,}")
    return count, *sides


def as_images(array: NDArray[np.generic]) -> UInt8Array:
    """Return an array as images, uint8, of `image_shape`; raise `ValueError` if it has none."""
    count, *sides = image_shape(array.shape)
    if _has_planes(_sides(array.shape)):
        planes = array.reshape(count, 3, *sides[:2])
        images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    else:
        images = array.reshape(count, *sides)
    if images.dtype == np.uint8:
        return cast("UInt8Array", images)
    if images.dtype.kind not in "iu" or images.min(initial=0) < 0 or images.max(initial=0) > 255:
        raise ValueError(f"pixels must be integers from 0 to 255, not {images.dtype}")
    return images.astype(np.uint8)


def _square(pixels: int) -> list[int]:
    """Return the sides of a square image in a row of pixels, grey or in colour; empty if none."""
    for colours in ([], [3]):
        side = math.isqrt(pixels // math.prod(colours))
        if side**2 * math.prod(colours) == pixels:
            return [side, side, *colours]
    return []


def _sides(shape: Sequence[int]) -> list[int]:
    return [size for size in shape[1:] if size != 1]


def _has_planes(sides: Sequence[int]) -> bool:
    """Return whether the colours are the first axis of an image, not the last."""
    return len(sides) == 3 and sides[0] == 3 and sides[2] != 3


def as_labels(array: NDArray[np.generic]) -> Labels:
    """Return an array as labels, shape `(n,)`; raise `ValueError` if it holds none.

    Floats are whole numbers; bytes are text in UTF-8.
    """
    labels = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if labels.ndim != 1 or labels.dtype.kind not in "biufSU":
        raise ValueError(
            "labels must be whole numbers or text of the shape (n,), not "
            f"{array.dtype} {array.shape}; of one-hot labels, save the argmax"
        )
    if labels.dtype.kind == "S":
        return np.array([label.decode("utf-8", "backslashreplace") for label in labels.tolist()])
    if labels.dtype.kind == "b":
        return labels.astype(np.int64)
    if labels.dtype.kind != "f":
        return cast("Labels", labels)
    numbers = labels.astype(np.float64)
    are_whole = np.isfinite(numbers) & (np.trunc(numbers) == numbers) & (abs(numbers) < 2**53)
    if not are_whole.all():
        row = int(np.argmin(are_whole))
        raise ValueError(f"label {row + 1:,} is {numbers[row]:g}, not a whole number")
    return numbers.astype(np.int64)


def _common_shape(path: Path, splits: Mapping[str, Arrays]) -> tuple[int, ...]:
    """Return the shape of a training image; refuse splits of which only some have colours."""
    shapes = {name: arrays.images.shape[1:] for name, arrays in splits.items()}
    if len({len(shape) for shape in shapes.values()}) > 1:
        listed_shapes = listed([f"{name} {shape}" for name, shape in shapes.items()])
        raise InvalidDataset(
            f"Some splits of '{path}' have colours, others are grey: {listed_shapes}.",
            code="invalid_arrays",
        )
    return shapes["train"]


def _normalize(images: UInt8Array, spec: ImageSpec) -> UInt8Array:
    """Return uint8 `(n, *spec.shape)`."""
    if spec.look == "photo" and images.shape[1:] == spec.shape:
        return images
    normalized = spec.zeros(len(images))
    for row, image in enumerate(images):
        grey = image.ndim == 3 and spec.channels == 1
        pixels = np.asarray(Image.fromarray(image).convert("L")) if grey else image
        normalized[row] = normalize_pixels(pixels, spec)
    return normalized


def _name_classes(
    path: Path, splits: Mapping[str, Arrays], class_names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, Int64Array]]:
    """Return the class names, and the indices into them that the labels of each split mean."""
    known = np.unique(np.concatenate([arrays.labels for arrays in splits.values()]))
    file = (path if path.is_dir() else path.parent) / CLASS_NAMES_FILE
    names = _read_class_names(file) if file.exists() else class_names
    if names is None or known.dtype.kind == "U":
        if known.dtype.kind == "U":
            known = np.array(sorted(known.tolist(), key=natural_order))
        order = np.argsort(known)
        indices = {
            name: order[np.searchsorted(known, arrays.labels, sorter=order)].astype(np.int64)
            for name, arrays in splits.items()
        }
        return tuple(map(str, known)), indices
    # Numbers from 1 to the number of names mean the first to the last.
    first = int(len(known) > 0 and known[0] == 1 and known[-1] == len(names))
    for split, arrays in splits.items():
        outside = np.setdiff1d(arrays.labels, np.arange(len(names)) + first).tolist()
        if outside:
            raise InvalidDataset(
                f"'{file}' names {len(names)} classes, so labels go from 0 to {len(names) - 1} "
                f"or from 1 to {len(names)}; the {split} split also has {listed(outside)}.",
                code="labels_outside",
            )
    return names, {name: arrays.labels.astype(np.int64) - first for name, arrays in splits.items()}


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in read_text(path).rstrip().splitlines())
        check_class_names(names)
    except (OSError, ValueError) as error:
        raise InvalidDataset(
            f"'{path}' must name a different class in each line: {error}.",
            code="invalid_class_names",
        ) from error
    return names
