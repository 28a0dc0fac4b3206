"""Published data sets: locations and digests. Nothing is downloaded."""

import gzip
import hashlib
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import DatasetNotFound
from loupe.images.arrays import idx
from train.data import published
from train.data.own.idx_folders import FILES
from train.data.published import ARCHIVED, IDX_DATASETS, IdxDataset, load_published
from train.data.splits import Dataset

ARRAYS = (
    np.arange(6 * 784, dtype=np.uint32).astype(np.uint8).reshape(6, 28, 28),
    np.array([0, 1, 2, 0, 1, 2], np.uint8),
    np.arange(3 * 784, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)[:, ::-1],
    np.array([2, 1, 0], np.uint8),
)


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the machine's own copies from the tests."""
    monkeypatch.setattr(published, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace MNIST by nine images."""
    digests = tuple(hashlib.sha256(idx.encode(array)).hexdigest() for array in ARRAYS)
    monkeypatch.setitem(
        IDX_DATASETS, "mnist", IdxDataset(("zero", "one", "two"), "ink", digests, "here", "none")
    )


def write_files(folder: Path, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(FILES, ARRAYS, strict=True):
        data = idx.encode(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(
            gzip.compress(data) if packed else data
        )


def assert_is_small_mnist(dataset: Dataset) -> None:
    found = (dataset.train.images, dataset.train.labels, dataset.test.images, dataset.test.labels)
    for array, expected in zip(found, ARRAYS, strict=True):
        np.testing.assert_array_equal(array, expected)
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (
        np.dtype(np.uint8),
        np.dtype(np.int64),
    )
    assert (dataset.name, dataset.class_names, dataset.look) == (
        "mnist",
        ("zero", "one", "two"),
        "ink",
    )


@pytest.mark.usefixtures("small_mnist")
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("location", ["given", "debian/mnist", "keras/datasets/mnist"])
def test_idx_files_are_found_in_every_folder(tmp_path: Path, location: str, packed: bool) -> None:
    write_files(tmp_path / location, packed)

    assert_is_small_mnist(load_published("mnist", tmp_path / "given", download=False))


@pytest.mark.usefixtures("small_mnist")
def test_the_archive_that_keras_keeps_is_read(tmp_path: Path) -> None:
    (tmp_path / "keras" / "datasets").mkdir(parents=True)
    names = ("x_train", "y_train", "x_test", "y_test")
    arrays = dict(zip(names, ARRAYS, strict=True))
    np.savez(tmp_path / "keras" / "datasets" / "mnist.npz", **arrays)  # type: ignore[arg-type]

    assert_is_small_mnist(load_published("mnist", download=False))


@pytest.mark.usefixtures("small_mnist")
def test_a_folder_with_other_bytes_is_skipped(tmp_path: Path) -> None:
    write_files(tmp_path / "given")
    (tmp_path / "given" / FILES[1]).write_bytes(idx.encode(ARRAYS[1][::-1]))
    write_files(tmp_path / "debian" / "mnist")

    assert_is_small_mnist(load_published("mnist", tmp_path / "given", download=False))


@pytest.mark.usefixtures("small_mnist")
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "keras" / "datasets" / "mnist.npz"
    archive.parent.mkdir(parents=True)
    images = np.zeros((100_000, 28, 28), np.uint8)
    np.savez_compressed(archive, x_train=images, y_train=images, x_test=images, y_test=images)
    with pytest.raises(DatasetNotFound, match=f"{archive}: 313,600,512 bytes unpacked"):
        load_published("mnist", download=False)


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Serve a folder instead of Keras's bucket; `/moved/` redirects to it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/moved/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/moved"))
                self.end_headers()
            else:
                super().do_GET()

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setattr(published, "DOWNLOADS", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("small_mnist")
def test_mnist_is_downloaded_once_to_the_cache_of_keras(tmp_path: Path, downloads: Path) -> None:
    np.savez(downloads / "mnist.npz", **dict(zip(ARCHIVED, ARRAYS, strict=True)))  # type: ignore[arg-type]

    assert_is_small_mnist(load_published("mnist"))
    assert (tmp_path / "keras" / "datasets" / "mnist.npz").is_file()
    assert_is_small_mnist(load_published("mnist", download=False))


@pytest.mark.usefixtures("small_mnist")
def test_the_four_files_of_fashion_mnist_are_downloaded(
    downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IDX_DATASETS, "fashion-mnist", IDX_DATASETS["mnist"])
    write_files(downloads, packed=True)

    assert load_published("fashion-mnist").test.labels.tolist() == [2, 1, 0]


@pytest.mark.usefixtures("small_mnist")
def test_downloads_that_are_missing_moved_or_too_large_are_refused(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "keras" / "datasets" / "mnist.npz"
    address = published.DOWNLOADS

    def refusal() -> str:
        with pytest.raises(DatasetNotFound) as raised:
            load_published("mnist")
        return raised.value.message

    assert f"download from {address}: HTTP Error 404" in refusal()
    np.savez(downloads / "mnist.npz", **dict(zip(ARCHIVED, ARRAYS, strict=True)))  # type: ignore[arg-type]
    monkeypatch.setattr(published, "DOWNLOADS", f"{address}moved/")
    assert "HTTP Error 302" in refusal()
    monkeypatch.setattr(published, "DOWNLOADS", address)
    monkeypatch.setattr(published, "MAX_DOWNLOAD_BYTES", 1000)
    assert "mnist.npz has more than 1,000 bytes" in refusal()
    assert not cached.exists()


def test_files_that_are_not_the_published_ones_are_refused_with_all_attempts(
    tmp_path: Path,
) -> None:
    write_files(tmp_path / "given")
    write_files(tmp_path / "debian" / "mnist")
    (tmp_path / "debian" / "mnist" / FILES[2]).unlink()
    (tmp_path / "keras" / "datasets" / "mnist").mkdir(parents=True)
    (tmp_path / "keras" / "datasets" / "mnist" / FILES[0]).write_bytes(b"text")
    with pytest.raises(DatasetNotFound) as raised:
        load_published("mnist", tmp_path / "given", download=False)

    assert raised.value.code == "dataset_not_found"
    tried = raised.value.message.partition("Tried: ")[2].split("; ")
    for attempt, fact in zip(
        tried,
        (
            "train-images-idx3-ubyte",
            f"{tmp_path}/debian/mnist/t10k-images-idx3-ubyte",
            "no IDX header",
            f"{tmp_path}/keras/datasets/mnist.npz: ",
        ),
        strict=True,
    ):
        assert fact in attempt


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=f"Tried: {tmp_path}/given: "):
        load_published("fashion-mnist", tmp_path / "given", download=False)


def test_class_names_have_the_published_order() -> None:
    # Source: Zalando Research, Fashion-MNIST README, table "Labels".
    names = IDX_DATASETS["fashion-mnist"].class_names
    assert (names[0], names[5], names[9], len(names)) == ("T-shirt/top", "Sandal", "Ankle boot", 10)
    assert IDX_DATASETS["mnist"].class_names == tuple(str(digit) for digit in range(10))


def test_the_published_files_are_recognized() -> None:
    folder = os.environ.get("LOUPE_TEST_DATA")
    if folder is None:
        pytest.skip("LOUPE_TEST_DATA names no folder with mnist/*.gz")
    mnist = load_published("mnist", Path(folder, "mnist"), download=False)

    assert (mnist.train.images.shape, mnist.test.images.shape) == (
        (60_000, 28, 28),
        (10_000, 28, 28),
    )
    assert mnist.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
