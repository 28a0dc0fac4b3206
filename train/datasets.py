"""Data sets by name, as arrays, checked against known digests."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from loupe import idx
from loupe.errors import DatasetNotFound
from loupe.images import Look, UInt8Array, normalize
from train.tensorflow import import_tensorflow

DatasetName = Literal["fashion-mnist", "mnist", "digits"]
NAMES: tuple[DatasetName, ...] = get_args(DatasetName)

Int64Array: TypeAlias = NDArray[np.int64]

DEBIAN_FOLDER = Path("/usr/share/datasets")  # where Debian's dataset-… packages put their files
DIGITS_TEST_FRACTION = 0.25  # scikit-learn's digits come without a test split
DIGITS_SEED = 0  # the split is part of the data set, so it does not follow the training seed


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    `images` are uint8, shape `(n, 28, 28)`, 0 = background, 255 = full ink; `labels` are int64, shape `(n,)`, indices into the data
    set's class names.
    """

    images: UInt8Array
    labels: Int64Array

    def digest(self) -> str:
        """SHA-256, in hex, of the images and their labels: equal only for the same pictures in the same order."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()


@dataclass(frozen=True)
class Dataset:
    """What a classifier is trained on, and what it is measured with.

    Attributes:
        name: What a model of it is called in the store.
        class_names: In the order of the labels.
        look: How the images look, which is how a user's picture is made to look.
        train: Seen in training.
        test: Never seen before the last figures.
        validation: Held back from training to choose by, where the data set brings such a split of its own.
        extra: The test split of a user's own pictures, where such were mixed into training; measured by itself.
        source: Where the data comes from, for the model card.
        licence: Of the data, for the model card.
    """

    name: str
    class_names: tuple[str, ...]
    look: Look
    train: Split
    test: Split
    validation: Split | None = None
    extra: Split | None = None
    source: str = "not stated"
    licence: str = "not stated"


@dataclass(frozen=True)
class IdxDataset:
    """A data set published as four IDX files, and the SHA-256 of each, decompressed."""

    class_names: tuple[str, ...]
    look: Look
    digests: dict[str, str]
    source: str
    licence: str


FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

IDX_DATASETS: dict[DatasetName, IdxDataset] = {
    # Source: Zalando Research, Fashion-MNIST README, table "Labels"; MIT licence.
    "fashion-mnist": IdxDataset(
        class_names=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
        look="object",
        digests={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        source="Zalando Research, Fashion-MNIST: 70,000 product photos, made grey and 28 × 28",
        licence="MIT",
    ),
    # Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; CC BY-SA 3.0.
    "mnist": IdxDataset(
        class_names=tuple("0123456789"),
        look="ink",
        digests={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        source="LeCun, Cortes and Burges, The MNIST database of handwritten digits: 70,000 digits of some 500 people",
        licence="CC BY-SA 3.0",
    ),
}

Arrays = tuple[UInt8Array, UInt8Array, UInt8Array, UInt8Array]  # in the order of FILES


def load_dataset(name: DatasetName, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """A data set, from the first place that has it.

    Fashion-MNIST and MNIST are looked for in `data_dir`, then where Debian's packages put them, then in Keras's cache; then Keras
    downloads them. scikit-learn carries its digits with it.

    Raises:
        DatasetNotFound: If no place has the very bytes that were published; the message lists what was tried.
    """
    if name == "digits":
        return _load_digits()
    about = IDX_DATASETS[name]
    tried = []
    for place, read in _places(name, data_dir, download=download):
        try:
            arrays = read()
        except Exception as error:  # noqa: BLE001 - Keras raises a bare Exception for a failed download
            tried.append(f"{place}: {error}")
            continue
        wrong = _first_wrong(arrays, about.digests)
        if wrong is None:
            return Dataset(
                name,
                about.class_names,
                about.look,
                train=Split(arrays[0], arrays[1].astype(np.int64)),
                test=Split(arrays[2], arrays[3].astype(np.int64)),
                source=about.source,
                licence=about.licence,
            )
        tried.append(f"{place}: {wrong} is not the published file (its SHA-256 differs)")
    raise DatasetNotFound(
        name, tried, f"Put the four IDX files of '{name}' into a folder and name it with --data-dir, or use digits."
    )


def _places(name: DatasetName, data_dir: Path | None, *, download: bool) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    folders = [data_dir] if data_dir else []
    folders += [DEBIAN_FOLDER / name, keras_cache() / name]
    for folder in folders:
        yield str(folder), partial(_read_idx_folder, folder)
    archive = keras_cache() / f"{name}.npz"  # where Keras keeps MNIST
    yield str(archive), partial(_read_keras_archive, archive)
    if download:
        yield "download by Keras", partial(_download, name)


def check_name(name: str) -> DatasetName:
    """The name itself, once it is known to be a data set's; `DatasetNotFound` if not."""
    for known in NAMES:
        if name == known:
            return known
    raise DatasetNotFound(name, [f"the names {', '.join(NAMES)}"], "Choose one of these names.")


def keras_cache() -> Path:
    """The folder in which Keras keeps downloaded data sets. Source: keras.io, `keras.utils.get_file`."""
    return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"


def _read_idx_folder(folder: Path) -> Arrays:
    if not folder.is_dir():
        raise FileNotFoundError("no such folder")
    found = []
    for name in FILES:
        path = next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"no {name} or {name}.gz in it")
        found.append(idx.read(path))
    return found[0], found[1], found[2], found[3]


def _read_keras_archive(archive: Path) -> Arrays:
    if not archive.is_file():
        raise FileNotFoundError("no such file")
    with np.load(archive, allow_pickle=False) as arrays:
        return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def _download(name: DatasetName) -> Arrays:
    import_tensorflow()
    import keras

    module = keras.datasets.fashion_mnist if name == "fashion-mnist" else keras.datasets.mnist
    (train_images, train_labels), (test_images, test_labels) = module.load_data()
    return train_images, train_labels, test_images, test_labels


def _first_wrong(arrays: Arrays, digests: dict[str, str]) -> str | None:
    for name, array in zip(FILES, arrays, strict=True):
        if hashlib.sha256(idx.encode(array)).hexdigest() != digests[name]:
            return name
    return None


def _load_digits() -> Dataset:
    """scikit-learn's 1,797 digits, 8 × 8 with values 0..16, brought to MNIST's look.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI; CC BY 4.0.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    eight_bits = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8)
    images = np.stack([normalize(image, "ink") for image in eight_bits])  # (1797, 28, 28)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        bunch.target.astype(np.int64),
        test_size=DIGITS_TEST_FRACTION,
        stratify=bunch.target,
        random_state=DIGITS_SEED,
    )
    return Dataset(
        "digits",
        tuple("0123456789"),
        "ink",
        Split(train_images, train_labels),
        Split(test_images, test_labels),
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI: 1,797 digits of 8 × 8 pixels, in scikit-learn",
        licence="CC BY 4.0",
    )
