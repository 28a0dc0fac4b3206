"""Data sets by name.

`load_dataset` gives the training job all there is to know of one; `load` gives a notebook four arrays.
"""

import difflib
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, get_args

import numpy as np

from loupe.images.spec import SIDE, Float32Array, Look, UInt8Array
from loupe.old_errors.train import InvalidDatasetOption, InvalidTraining, UnknownDataset
from loupe.settings import load_settings
from train.data import digits, folders, idx_folders, published
from train.data.cache import NamedArrays, cached
from train.data.digits import DIGITS_TEST_FRACTION
from train.data.splits import SPLIT_SEED, Dataset, Int64Array, Split

__all__ = ["NAMES", "Dataset", "Int64Array", "Split", "check_name", "load", "load_dataset"]

logger = logging.getLogger(__name__)

DIGITS: Mapping[str, Callable[[float, int], Dataset]] = {
    "digits": digits.load_digits,
    "digits-8x8": digits.load_digits_8x8,
}
NAMES = (*published.IDX_DATASETS, *DIGITS)
KINDS = ("idx:DIR", "folder:DIR")
DEFAULT_LOOK: Look = (
    "object"  # of a user's own pictures: photos of things are more common than drawings
)
CACHE_VERSION = 1  # raise it when other images are made of the same files
CACHE_FOLDER = "datasets"  # below the data folder
RESEMBLANCE = 0.5  # 0..1; of a wrong name to the one that was meant

Pair: TypeAlias = tuple[UInt8Array | Float32Array, Int64Array | Float32Array]
"""Images and labels."""


def load_dataset(
    name: str,
    data_dir: Path | None = None,
    *,
    look: Look | None = None,
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
    download: bool = True,
) -> Dataset:
    """A data set, from the first place that has it.

    Args:
        name: One of `NAMES`, or `idx:DIR` or `folder:DIR` for a user's own.
        data_dir: Where the four IDX files of Fashion-MNIST or MNIST are looked for first.
        look: How a user's own pictures are made to look; `object` if nothing is said.
        test_fraction: Fraction, 0..1, of the images that become the test split of a data set that brings none.
        split_seed: Another one splits such a data set otherwise.
        download: Whether Keras may download Fashion-MNIST or MNIST.

    Raises:
        UnknownDataset: If there is no data set of that name.
        InvalidDatasetOption: If a look or a fraction was given that the data set does not take.
        FolderNotFound: If a user's folder is not there.
        InvalidDataset: If what is in it cannot be trained on.
        DatasetNotFound: If a published data set is nowhere to be had.
    """
    check_name(name)
    _check_options(name, look, test_fraction)
    kind, folder = _user_folder(name)
    if kind is not None:
        return _load_own(kind, folder, look or DEFAULT_LOOK, test_fraction, split_seed)
    if name in DIGITS:
        fraction = DIGITS_TEST_FRACTION if test_fraction is None else test_fraction
        return DIGITS[name](fraction, split_seed)
    return published.load_published(name, data_dir, download=download)


def check_name(name: str) -> str:
    """The name itself, once it is known to be a data set's.

    Raises:
        UnknownDataset: If it is none; the message has all names, and the one that may have been meant.
        FolderNotFound: If it names a folder that is not there.
    """
    kind, folder = _user_folder(name)
    if kind is None and name not in NAMES:
        raise UnknownDataset(name, (*NAMES, *KINDS), _nearest(name))
    if kind is not None:
        folders.check_folder(folder)
    return name


def check_size(dataset: Dataset) -> None:
    """Refuse images of another size than stored models take.

    Raises:
        InvalidTraining: If they are not 28 × 28.
    """
    height, width = dataset.train.images.shape[1:]
    if (height, width) != (SIDE, SIDE):
        raise InvalidTraining(
            "dataset",
            f"images of {SIDE} × {SIDE} pixels, which stored models take",
            f"{height} × {width}",
        )


def load(
    name: str,
    *,
    normalize: bool = False,
    flatten: bool = False,
    one_hot: bool = False,
    data_dir: Path | str | None = None,
    look: Look | None = None,
) -> tuple[Pair, Pair]:
    """A data set as NumPy arrays: `(x_train, t_train), (x_test, t_test)`.

    The arrays are kept under the data folder (`LOUPE_DATA_DIR`) for the next call, until the files they were made of change. A
    validation split, where the data set brings one, is not among them; `load_dataset` has it.

    Args:
        name: One of `NAMES`, or `idx:DIR` or `folder:DIR` for your own pictures.
        normalize: Images are float32, 0..1, rather than uint8, 0..255 (`digits-8x8`: 0..128).
        flatten: Images have shape `(n, 784)` rather than `(n, 28, 28)` (`digits-8x8`: 64 and 8 × 8).
        one_hot: Labels are float32, shape `(n, classes)`, rather than int64, shape `(n,)`.
        data_dir: Where the four IDX files of Fashion-MNIST or MNIST are looked for first.
        look: `ink` or `object`: how your own pictures are made to look.

    Raises:
        LoupeError: As `load_dataset`.
    """
    check_name(name)
    _check_options(name, look, None)

    def build() -> NamedArrays:
        dataset = load_dataset(name, folders.expanded(data_dir) if data_dir else None, look=look)
        for left_out in dataset.left_out:
            logger.warning("%s is left out: %s", left_out.path, left_out.reason)
        return {
            "x_train": np.array(dataset.train.images),  # in memory, where it was mapped from disk
            "t_train": dataset.train.labels,
            "x_test": np.array(dataset.test.images),
            "t_test": dataset.test.labels,
            "classes": np.array(len(dataset.class_names)),
            "full_ink": np.array(dataset.full_ink),
        }

    arrays = cached(_cache_file(name, look), _fingerprint(name), build)

    def pair(split: str) -> Pair:
        images: UInt8Array | Float32Array = np.asarray(arrays[f"x_{split}"], np.uint8)
        labels: Int64Array | Float32Array = np.asarray(arrays[f"t_{split}"], np.int64)
        if normalize:
            images = images.astype(np.float32) / np.float32(arrays["full_ink"])
        if one_hot:
            labels = np.eye(int(arrays["classes"]), dtype=np.float32)[labels]
        return images.reshape(len(images), -1) if flatten else images, labels

    return pair("train"), pair("test")


def _load_own(
    kind: str, folder: Path, look: Look, test_fraction: float | None, split_seed: int
) -> Dataset:
    if kind == "idx":
        dataset = idx_folders.load_idx_folder(folder, look=look)
    else:
        dataset = folders.load_folder(
            folder,
            look=look,
            max_pixels=load_settings().max_image_pixels,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
    # A folder may be called mnist; a model of it must not pass for one of the published data set.
    return replace(dataset, name=f"{kind}-{dataset.name}") if dataset.name in NAMES else dataset


def _user_folder(name: str) -> tuple[str | None, Path]:
    """`idx` or `folder`, and the user's folder; no kind for any other name."""
    kind, _, place = name.partition(":")
    return (kind if kind in ("idx", "folder") and place else None), folders.expanded(place)


def _nearest(name: str) -> str | None:
    """What a wrong name was meant to be, as far as can be told."""
    folder = folders.expanded(name)
    if name and folders.is_folder(folder):
        return (
            f"{'idx' if idx_folders.find_file(folder, idx_folders.FILES[0]) else 'folder'}:{name}"
        )
    kind, colon, place = name.partition(":")
    candidates = ("idx", "folder") if colon else NAMES
    meant = difflib.get_close_matches(
        kind.casefold().replace("_", "-"), candidates, n=1, cutoff=RESEMBLANCE
    )
    return (f"{meant[0]}:{place or 'DIR'}" if colon else meant[0]) if meant else None


def _check_options(name: str, look: Look | None, test_fraction: float | None) -> None:
    kind, _ = _user_folder(name)
    if look is not None and look not in get_args(Look):
        raise InvalidDatasetOption(
            f"the look '{look}'", name, f"there are {' and '.join(get_args(Look))}"
        )
    if kind is None:
        own = "ink" if name in DIGITS else published.IDX_DATASETS[name].look
        if look not in (None, own):
            raise InvalidDatasetOption(
                f"the look '{look}'", name, f"its images are of the look '{own}'"
            )
    if test_fraction is not None and kind != "folder" and name not in DIGITS:
        raise InvalidDatasetOption("a test fraction", name, "it has a test split of its own")


def _cache_file(name: str, look: Look | None) -> Path:
    kind, folder = _user_folder(name)
    home = load_settings().home / CACHE_FOLDER
    if kind is None:
        return home / f"{name}.npz"
    which = hashlib.sha256(
        f"{folder.resolve()} {look or DEFAULT_LOOK}".encode("utf-8", "backslashreplace")
    )
    return home / f"{kind}-{folders.slug(folder.resolve().name)}-{which.hexdigest()[:12]}.npz"


def _fingerprint(name: str) -> str:
    """Changes when the files a data set is made of do, or what is made of them."""
    kind, folder = _user_folder(name)
    if kind == "folder":
        source = f"{folders.list_folder(folder).fingerprint()} {load_settings().max_image_pixels}"
    elif kind == "idx":
        source = idx_folders.fingerprint(folder)
    else:
        source = digits.fingerprint() if name in DIGITS else published.fingerprint(name)
    return f"{CACHE_VERSION} {source}"
