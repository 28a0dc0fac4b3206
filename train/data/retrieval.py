"""Find the files of published data sets on this machine, or download them."""

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.request import HTTPRedirectHandler, build_opener

import numpy as np

from loupe.errors import DatasetNotFound
from loupe.files import atomic_path, open_regular
from loupe.images.spec import UInt8Array
from train.data.npz import read_npz
from train.data.own.folders import expand_user
from train.data.own.idx_folders import FILES, read_idx
from train.data.published import PUBLISHED, Download
from train.data.splits import Dataset, Split

DEBIAN_FOLDER = Path("/usr/share/datasets")  # of Debian's dataset-… packages
# Source: `keras.datasets`, whose `get_file` bounds no size and follows any redirect.
DOWNLOADS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
TIMEOUT_SECONDS = 30.0  # of waiting for the next bytes
MAX_DOWNLOAD_BYTES = 600 * 2**20  # EMNIST has 562 MB
PIECE_BYTES = 2**20  # read at a time
ARCHIVED = ("x_train", "y_train", "x_test", "y_test")  # arrays in Keras's archive of MNIST
MAX_ARCHIVE_BYTES = 64 * 2**20  # unpacked; MNIST has 55 MB
EMNIST_PREFIX = "emnist-balanced-"
CIFAR_SHAPE = (3, 32, 32)  # of an image in a record, after the labels

Reader = Callable[[], list[UInt8Array]]
"""Returns the arrays in the order of `FILES`."""


def load_published(name: str, data_dir: Path | None = None, *, download: bool = True) -> Dataset:
    """Load a published data set from `data_dir`, Debian's packages, Keras's cache or the network.

    Raises:
        DatasetNotFound: If none of them has the published images; the message lists all attempts.
    """
    published = PUBLISHED[name]
    attempts = []
    for location, read in _candidates(name, data_dir, download=download):
        try:
            arrays = read()
            published.check(arrays)
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
    files = " ".join(each.url for each in published.downloads) or "its four IDX files"
    raise DatasetNotFound(
        f"The data set '{name}' was not found. Put {files} into a folder and pass it with "
        f"--data-dir, or use digits. Tried: {'; '.join(attempts)}."
    )


def _candidates(
    name: str, data_dir: Path | None, *, download: bool
) -> Iterator[tuple[str, Reader]]:
    """Yield the locations to try, and functions that read them."""
    read, cache = READERS.get(name, _read_folder), keras_cache()
    for folder in (data_dir, DEBIAN_FOLDER / name, cache / name):
        if folder:
            yield str(folder), partial(read, folder)
    if not PUBLISHED[name].downloads:
        archive = cache / f"{name}.npz"  # Keras stores MNIST as one archive
        yield str(archive), partial(_read_archive, archive)
    if not download:
        return
    if files := PUBLISHED[name].downloads:
        address = files[0].url.rpartition("/")[0]
        yield f"download from {address}/", partial(_download, files, cache / name, read)
    else:
        yield f"download from {DOWNLOADS}", partial(_download_of_keras, name)


def keras_cache() -> Path:
    """Return Keras's folder of downloaded data sets. Source: keras.io, `keras.utils.get_file`."""
    return expand_user(os.environ.get("KERAS_HOME", "~/.keras")) / "datasets"


def _read_folder(folder: Path) -> list[UInt8Array]:
    return [read_idx(folder, name) for name in FILES]


def _read_archive(path: Path) -> list[UInt8Array]:
    """Read Keras's archive."""
    arrays = read_npz(path, MAX_ARCHIVE_BYTES, lambda name, _: name in ARCHIVED)
    return [arrays[name] for name in ARCHIVED]


def _read_emnist(folder: Path) -> list[UInt8Array]:
    """Read EMNIST's IDX files, in the published archive or out of it; they are transposed."""
    archive = PUBLISHED["emnist"].downloads[0]
    with TemporaryDirectory(prefix="loupe-emnist-") as unpacked:
        if (folder / archive.name).exists():
            _check_file(folder / archive.name, archive.sha256)
            with zipfile.ZipFile(folder / archive.name) as opened:
                for member in opened.infolist():
                    if (name := Path(member.filename).name).startswith(EMNIST_PREFIX):
                        Path(unpacked, name).write_bytes(opened.read(member))
            folder = Path(unpacked)
        arrays = [read_idx(folder, name, EMNIST_PREFIX) for name in FILES]
    return [array.swapaxes(1, 2) if array.ndim == 3 else array for array in arrays]


def _read_cifar(
    name: str, members: tuple[tuple[str, ...], tuple[str, ...]], labels: int, folder: Path
) -> list[UInt8Array]:
    """Read records of `labels` bytes, the last of which is used, and an image, planes first."""
    archive = PUBLISHED[name].downloads[0]
    _check_file(folder / archive.name, archive.sha256)
    arrays = []
    with tarfile.open(folder / archive.name) as opened:
        files = {Path(member.name).name: member for member in opened.getmembers()}
        for split in members:
            parts = [opened.extractfile(files[member]) for member in split]
            data = b"".join(part.read() for part in parts if part)
            records = np.frombuffer(data, np.uint8).reshape(-1, labels + int(np.prod(CIFAR_SHAPE)))
            images = records[:, labels:].reshape(-1, *CIFAR_SHAPE).transpose(0, 2, 3, 1)
            arrays += [np.ascontiguousarray(images), records[:, labels - 1]]
    return arrays


READERS: dict[str, Callable[[Path], list[UInt8Array]]] = {
    "emnist": _read_emnist,
    "cifar10": partial(
        _read_cifar,
        "cifar10",
        (tuple(f"data_batch_{number}.bin" for number in range(1, 6)), ("test_batch.bin",)),
        1,
    ),
    # The first of two labels is one of 20 coarse classes.
    "cifar100": partial(_read_cifar, "cifar100", (("train.bin",), ("test.bin",)), 2),
}


def _check_file(path: Path, sha256: str) -> None:
    """Raise `ValueError` if a file does not have this SHA-256, in hex."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(PIECE_BYTES):
            found.update(piece)
    if found.hexdigest() != sha256:
        raise ValueError("its SHA-256 is not that of the published file")


def _download(
    files: tuple[Download, ...], folder: Path, read: Callable[[Path], list[UInt8Array]]
) -> list[UInt8Array]:
    """Download files to Keras's cache, and read them there."""
    for file in files:
        _download_file(file.url, folder / file.name, file.sha256)
    return read(folder)


def _download_of_keras(name: str) -> list[UInt8Array]:
    """Download the files that Keras uses to Keras's cache, and read them there."""
    cache = keras_cache()
    if name == "mnist":
        _download_file(f"{DOWNLOADS}mnist.npz", cache / "mnist.npz")
        return _read_archive(cache / "mnist.npz")
    for file in FILES:
        _download_file(f"{DOWNLOADS}{file}.gz", cache / name / f"{file}.gz")
    return _read_folder(cache / name)


def _download_file(url: str, path: Path, sha256: str | None = None) -> None:
    """Download a file of at most `MAX_DOWNLOAD_BYTES` to a path, if it is the expected one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        build_opener(NoRedirect).open(url, timeout=TIMEOUT_SECONDS) as reply,
        atomic_path(path) as temporary,
    ):
        with temporary.open("wb") as file:
            _copy(reply, file, path.name)
        if sha256:
            _check_file(temporary, sha256)


def _copy(reply: BinaryIO, file: BinaryIO, name: str) -> None:
    size = 0
    while piece := reply.read(PIECE_BYTES):
        size += len(piece)
        if size > MAX_DOWNLOAD_BYTES:
            raise ValueError(f"{name} has more than {MAX_DOWNLOAD_BYTES:,} bytes")
        file.write(piece)


class NoRedirect(HTTPRedirectHandler):
    """Report redirects as errors; they may lead to other servers, or to plain HTTP."""

    def redirect_request(self, *arguments: object) -> None:
        """Refuse the redirect."""
