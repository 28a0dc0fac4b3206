"""Fashion-MNIST and MNIST: the folders that may hold their files, and the files' digests."""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import HTTPRedirectHandler, build_opener

import numpy as np

from loupe.errors import DatasetNotFound
from loupe.files import write_atomically
from loupe.images.arrays import idx
from loupe.images.spec import Look, UInt8Array
from train.data.npz import read_npz
from train.data.own.folders import expand_user
from train.data.own.idx_folders import FILES, read_idx
from train.data.splits import Dataset, Split

DEBIAN_FOLDER = Path("/usr/share/datasets")  # of Debian's dataset-… packages
# Source: `keras.datasets`, whose `get_file` bounds no size and follows any redirect.
DOWNLOADS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
TIMEOUT_SECONDS = 30.0  # of waiting for the next bytes
MAX_DOWNLOAD_BYTES = 64 * 2**20  # the largest file has 26 MB
ARCHIVED = ("x_train", "y_train", "x_test", "y_test")  # arrays in Keras's archive of MNIST
MAX_ARCHIVE_BYTES = 64 * 2**20  # unpacked; MNIST has 55 MB


@dataclass(frozen=True)
class IdxDataset:
    """A data set published as four IDX files.

    `digests` are their SHA-256, decompressed, in the order of `FILES`.
    """

    class_names: tuple[str, ...]
    look: Look
    digests: tuple[str, ...]
    source: str
    licence: str
    japanese: tuple[str, ...] = ()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


IDX_DATASETS: dict[str, IdxDataset] = {
    # Source: Zalando Research, Fashion-MNIST README, table "Labels"; MIT licence.
    "fashion-mnist": IdxDataset(
        class_names=_names(
            "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
        ),
        look="object",
        digests=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        source="Zalando Research, Fashion-MNIST: 70,000 product photos, made grey and 28 × 28",
        licence="MIT",
        japanese=_names(
            "Tシャツ/トップ, ズボン, プルオーバー, ドレス, コート, "
            "サンダル, シャツ, スニーカー, バッグ, アンクルブーツ"
        ),
    ),
    # Source: LeCun, Cortes and Burges, "The MNIST database of handwritten digits"; CC BY-SA 3.0.
    "mnist": IdxDataset(
        class_names=tuple("0123456789"),
        look="ink",
        digests=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        source="LeCun, Cortes and Burges, The MNIST database of handwritten digits: "
        "70,000 digits of some 500 people",
        licence="CC BY-SA 3.0",
        japanese=tuple("0123456789"),
    ),
}


def load_published(name: str, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """Load a published data set from `data_dir`, Debian's packages, Keras's cache or the network.

    Raises:
        DatasetNotFound: If none of them has the published bytes; the message lists all attempts.
    """
    published = IDX_DATASETS[name]
    attempts = []
    for location, read in _candidates(name, data_dir, download=download):
        try:
            arrays = read()
            for file, array, expected in zip(FILES, arrays, published.digests, strict=True):
                if digest(array) != expected:
                    raise ValueError(f"the SHA-256 of {file} is not that of the published file")
        except Exception as error:  # noqa: BLE001 - damaged archives raise almost anything
            attempts.append(f"{location}: {error}".rstrip("."))
            continue
        return Dataset(
            name,
            published.class_names,
            published.look,
            train=Split(arrays[0], arrays[1].astype(np.int64)),
            test=Split(arrays[2], arrays[3].astype(np.int64)),
            source=published.source,
            licence=published.licence,
            translations={"ja": published.japanese} if published.japanese else {},
        )
    raise DatasetNotFound(
        f"The data set '{name}' was not found. Put its four IDX files into a folder and pass it "
        f"with --data-dir, or use digits. Tried: {'; '.join(attempts)}."
    )


def _candidates(
    name: str, data_dir: Path | None, *, download: bool
) -> Iterator[tuple[str, Callable[[], list[UInt8Array]]]]:
    """Yield the locations to try, and functions that read them in the order of `FILES`."""
    for folder in (data_dir, DEBIAN_FOLDER / name, keras_cache() / name):
        if folder:
            yield str(folder), partial(_read_folder, folder)
    archive = keras_cache() / f"{name}.npz"  # Keras stores MNIST as one archive
    yield str(archive), partial(_read_archive, archive)
    if download:
        yield f"download from {DOWNLOADS}", partial(_download, name)


def keras_cache() -> Path:
    """Return Keras's folder of downloaded data sets. Source: keras.io, `keras.utils.get_file`."""
    return expand_user(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"


def digest(array: UInt8Array) -> str:
    """Return the SHA-256, in hex, of the decompressed IDX file that holds an array."""
    return hashlib.sha256(idx.encode(array)).hexdigest()


def _read_folder(folder: Path) -> list[UInt8Array]:
    return [read_idx(folder, name) for name in FILES]


def _read_archive(path: Path) -> list[UInt8Array]:
    """Read Keras's archive."""
    arrays = read_npz(path, MAX_ARCHIVE_BYTES, lambda name, _: name in ARCHIVED)
    return [arrays[name] for name in ARCHIVED]


def _download(name: str) -> list[UInt8Array]:
    """Download the files that Keras uses to Keras's cache, and read them there."""
    cache = keras_cache()
    if name == "mnist":
        _download_file("mnist.npz", cache)
        return _read_archive(cache / "mnist.npz")
    for file in FILES:
        _download_file(f"{file}.gz", cache / name)
    return _read_folder(cache / name)


def _download_file(name: str, folder: Path) -> None:
    with build_opener(NoRedirect).open(DOWNLOADS + name, timeout=TIMEOUT_SECONDS) as reply:
        data = reply.read(MAX_DOWNLOAD_BYTES + 1)
    if len(data) > MAX_DOWNLOAD_BYTES:
        raise ValueError(f"{name} has more than {MAX_DOWNLOAD_BYTES:,} bytes")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / name, data)


class NoRedirect(HTTPRedirectHandler):
    """Report redirects as errors; they may lead to other servers, or to plain HTTP."""

    def redirect_request(self, *arguments: object) -> None:
        """Refuse the redirect."""
