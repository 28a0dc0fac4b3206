"""Fashion-MNIST and MNIST: where their files are looked for, and the digests by which they are known."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loupe.images import idx
from loupe.images.spec import Look, UInt8Array
from loupe.old_errors.train import DatasetNotFound
from train.data.idx_folders import FILES, Arrays, find_file
from train.data.splits import Dataset, Split
from train.tensorflow import import_tensorflow

DEBIAN_FOLDER = Path("/usr/share/datasets")  # where Debian's dataset-… packages put their files


@dataclass(frozen=True)
class IdxDataset:
    """A data set published as four IDX files, and the SHA-256 of each, decompressed."""

    class_names: tuple[str, ...]
    look: Look
    digests: dict[str, str]
    source: str
    licence: str
    japanese: tuple[str, ...] = ()


IDX_DATASETS: dict[str, IdxDataset] = {
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
        japanese=(
            "Tシャツ/トップ",
            "ズボン",
            "プルオーバー",
            "ドレス",
            "コート",
            "サンダル",
            "シャツ",
            "スニーカー",
            "バッグ",
            "アンクルブーツ",
        ),
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
        japanese=tuple("0123456789"),
    ),
}


def load_published(name: str, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """A published data set, from the first place that has it.

    It is looked for in `data_dir`, then where Debian's packages put it, then in Keras's cache; then Keras downloads it.

    Raises:
        DatasetNotFound: If no place has the very bytes that were published; the message lists what was tried.
    """
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
                translations={"ja": about.japanese} if about.japanese else {},
            )
        tried.append(f"{place}: {wrong} is not the published file (its SHA-256 differs)")
    raise DatasetNotFound(
        name,
        tried,
        f"Put the four IDX files of '{name}' into a folder and name it with --data-dir, or use digits.",
    )


def _places(
    name: str, data_dir: Path | None, *, download: bool
) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    folders = [data_dir] if data_dir else []
    folders += [DEBIAN_FOLDER / name, keras_cache() / name]
    for folder in folders:
        yield str(folder), partial(_read_idx_folder, folder)
    archive = keras_cache() / f"{name}.npz"  # where Keras keeps MNIST
    yield str(archive), partial(_read_keras_archive, archive)
    if download:
        yield "download by Keras", partial(_download, name)


def keras_cache() -> Path:
    """The folder in which Keras keeps downloaded data sets. Source: keras.io, `keras.utils.get_file`."""
    return Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"


def digest(array: UInt8Array) -> str:
    """SHA-256, in hex, of the IDX file that holds an array, decompressed."""
    return hashlib.sha256(idx.encode(array)).hexdigest()


def fingerprint(name: str) -> str:
    """Of the bytes that were published."""
    return hashlib.sha256(repr(sorted(IDX_DATASETS[name].digests.items())).encode()).hexdigest()


def _read_idx_folder(folder: Path) -> Arrays:
    if not folder.is_dir():
        raise FileNotFoundError("no such folder")
    found = []
    for name in FILES:
        path = find_file(folder, name)
        if path is None:
            raise FileNotFoundError(f"no {name} or {name}.gz in it")
        found.append(idx.read(path))
    return found[0], found[1], found[2], found[3]


def _read_keras_archive(archive: Path) -> Arrays:
    if not archive.is_file():
        raise FileNotFoundError("no such file")
    with np.load(archive, allow_pickle=False) as arrays:
        return arrays["x_train"], arrays["y_train"], arrays["x_test"], arrays["y_test"]


def _download(name: str) -> Arrays:
    import_tensorflow()
    import keras

    module = keras.datasets.fashion_mnist if name == "fashion-mnist" else keras.datasets.mnist
    (train_images, train_labels), (test_images, test_labels) = module.load_data()
    return train_images, train_labels, test_images, test_labels


def _first_wrong(arrays: Arrays, digests: dict[str, str]) -> str | None:
    for name, array in zip(FILES, arrays, strict=True):
        if digest(array) != digests[name]:
            return name
    return None
