"""Data sets by name: `load_dataset` for training, `load` for notebooks."""

import difflib
import logging
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from loupe.errors import InvalidUsage
from loupe.images.selection import describe
from loupe.images.spec import Fit, Float32Array, Look, UInt8Array
from train.data.digits import load_digits
from train.data.image_options import ImageOptions
from train.data.own import array_files, folders, idx_folders
from train.data.published import PUBLISHED
from train.data.retrieval import load_published
from train.data.splits import SPLIT_SEED, Dataset, Int64Array, Split

__all__ = ["NAMES", "Dataset", "Int64Array", "Split", "check_name", "load", "load_dataset"]

logger = logging.getLogger(__name__)

DIGITS = ("digits", "digits-8x8")
NAMES = (*PUBLISHED, *DIGITS)
KINDS = ("idx:DIR", "folder:DIR", "npz:PATH", "csv:PATH")
PREFIXES = tuple(f"{kind.partition(':')[0]}:" for kind in KINDS)
MAY_LACK_TEST = ("folder", "npz", "csv")  # kinds of data sets that Loupe may have to split
ARCHIVES = (".zip", ".tar", ".gz", ".tgz")
MIN_SIMILARITY = 0.5  # of a wrong name to the suggestion, 0..1

Pair: TypeAlias = tuple[UInt8Array | Float32Array, Int64Array | Float32Array]
"""Images and labels."""


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    *,
    options: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
    download: bool = True,
) -> Dataset:
    """Load a data set by its name.

    Args:
        name: One of `NAMES`, or one of `KINDS` for a user's own; their path alone is enough.
        data_dir: Folder to search first for the IDX files of Fashion-MNIST or MNIST.
        options: What to make of a user's own pictures.
        test_fraction: Fraction, 0..1, of the images to test with, for data sets without a split.
        split_seed: Seed of that split.
        download: Whether to download Fashion-MNIST or MNIST if this machine has no copy.

    Raises:
        InvalidUsage: If the name is unknown, the folder does not exist, or the data set does not
            take an option.
        InvalidDataset: If a user's files cannot be trained on.
        DatasetNotFound: If the files of a published data set were not found.
    """
    name = full_name(name)
    kind, folder = check_name(name)
    if test_fraction is not None and kind not in MAY_LACK_TEST and name not in DIGITS:
        raise InvalidUsage(
            f"'{name}' has its own test split, so it takes no test fraction.",
            code="invalid_dataset_option",
        )
    if name in DIGITS:
        options.check(name, "ink", (28, 28) if name == "digits" else (8, 8))
        return load_digits(name, test_fraction, split_seed)
    if kind is None:
        options.check(name, PUBLISHED[name].look, PUBLISHED[name].shape)
        return load_published(name, data_dir, download=download)
    if kind == "idx":
        dataset = idx_folders.load_idx_folder(folder, options)
    elif kind == "folder":
        dataset = folders.load_folder(folder, options.spec(), test_fraction, split_seed)
    else:
        dataset = array_files.load_files(kind, folder, options, test_fraction, split_seed)
    # A model of a folder called mnist must not pass for one of the published data set.
    return replace(dataset, name=f"{kind}-{dataset.name}") if dataset.name in NAMES else dataset


def full_name(name: str) -> str:
    """Return `folder:DIR`, `idx:DIR`, `npz:PATH` or `csv:PATH` for the path of own images.

    All other names are returned as they are.
    """
    path = folders.expand_user(name)
    if name in NAMES or not name or name.startswith(PREFIXES):
        return name
    if folders.is_folder(path):
        has_idx_files = idx_folders.find_file(path, idx_folders.FILES[0])
        return f"{'idx' if has_idx_files else 'folder'}:{name}"
    if path.suffix.lower() in (".npz", ".csv"):
        return f"{path.suffix[1:].lower()}:{name}"
    return name


def check_name(name: str) -> tuple[str | None, Path]:
    """Return the kind and the path of a user's own data set, or `None` for the others.

    Raises:
        InvalidUsage: If there is no such data set or folder.
    """
    kind, _, path = name.partition(":")
    folder = folders.expand_user(path)
    if path and kind in [each.partition(":")[0] for each in KINDS]:
        if kind == "idx":
            idx_folders.check_location(folder)
        elif kind == "folder":
            folders.check_folder(folder)
        return kind, folder
    if name not in NAMES:
        nearest = _nearest(name)
        suggestion = f"Did you mean {nearest}? " if nearest else ""
        if Path(name).suffix in ARCHIVES:
            suggestion = "Archives are for `loupe score`. Unpack it, and train on the folder. "
        raise InvalidUsage(
            f"There is no data set '{name}'. {suggestion}Known: {', '.join((*NAMES, *KINDS))}.",
            code="unknown_dataset",
        )
    return None, folder


def load(
    name: str,
    *,
    normalize: bool = False,
    flatten: bool = False,
    one_hot: bool = False,
    data_dir: Path | str | None = None,
    look: Look | None = None,
    size: int | tuple[int, int] | None = None,
    colour: bool = False,
    fit: Fit | None = None,
) -> tuple[Pair, Pair]:
    """Load a data set as NumPy arrays: `(x_train, t_train), (x_test, t_test)`.

    A validation split is not included; use `load_dataset` for it.

    Args:
        name: One of `NAMES`, or one of `KINDS` for your own pictures.
        normalize: Return float32 images, 0..1, instead of uint8, 0..255 (`digits-8x8`: 0..128).
        flatten: Return each image as one row of pixels, `(n, 784)` instead of `(n, 28, 28)`.
        one_hot: Return float32 labels of shape `(n, classes)` instead of int64 of shape `(n,)`.
        data_dir: Folder to search first for the IDX files of Fashion-MNIST or MNIST.
        look: `ink`, `object` or `photo`, to normalise your own pictures to.
        size: Side of your own pictures, or height and width, in pixels.
        colour: Keep the colours of your own pictures.
        fit: How photos get their size: `crop`, `pad` or `stretch`.
    """
    options = ImageOptions.of(look=look, size=size, colour=colour, fit=fit)
    folder = folders.expand_user(data_dir) if data_dir else None
    dataset = load_dataset(name, folder, options=options)
    for file in dataset.unreadable:
        logger.warning("%s is left out: %s", file.path, file.reason)
    if dataset.skipped:
        logger.warning("Files are left out: %s", describe(dataset.skipped))

    def pair(split: Split) -> Pair:
        images: UInt8Array | Float32Array = np.array(split.images)  # mapped from disk: read-only
        labels: Int64Array | Float32Array = split.labels
        if normalize:
            images = images.astype(np.float32) / np.float32(dataset.full_ink)
        if one_hot:
            labels = np.eye(len(dataset.class_names), dtype=np.float32)[split.labels]
        return images.reshape(len(images), -1) if flatten else images, labels

    return pair(dataset.train), pair(dataset.test)


def _nearest(name: str) -> str | None:
    """Return the name that was probably meant."""
    kind, colon, path = name.partition(":")
    candidates = [each.partition(":")[0] for each in KINDS] if colon else NAMES
    meant = difflib.get_close_matches(
        kind.casefold().replace("_", "-"), candidates, n=1, cutoff=MIN_SIMILARITY
    )
    return (f"{meant[0]}:{path or 'DIR'}" if colon else meant[0]) if meant else None
