"""Published data sets: locations and digests. Nothing is downloaded."""

import gzip
import hashlib
import io
import os
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import DatasetNotFound
from loupe.images.arrays import idx
from loupe.images.spec import ImageSpec
from train.data import retrieval
from train.data.own.idx_folders import FILES
from train.data.published import PUBLISHED, Download, PublishedDataset
from train.data.retrieval import ARCHIVED, load_published
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
    monkeypatch.setattr(retrieval, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace MNIST by nine images."""
    digests = tuple(hashlib.sha256(idx.encode(array)).hexdigest() for array in ARRAYS)
    monkeypatch.setitem(
        PUBLISHED, "mnist", PublishedDataset(("zero", "one", "two"), "ink", digests)
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
        monkeypatch.setattr(retrieval, "DOWNLOADS", f"http://127.0.0.1:{server.server_port}/")
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
    monkeypatch.setitem(PUBLISHED, "fashion-mnist", PUBLISHED["mnist"])
    write_files(downloads, packed=True)

    assert load_published("fashion-mnist").test.labels.tolist() == [2, 1, 0]


@pytest.mark.usefixtures("small_mnist")
def test_downloads_that_are_missing_moved_or_too_large_are_refused(
    tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "keras" / "datasets" / "mnist.npz"
    address = retrieval.DOWNLOADS

    def refusal() -> str:
        with pytest.raises(DatasetNotFound) as raised:
            load_published("mnist")
        return raised.value.message

    assert f"download from {address}: HTTP Error 404" in refusal()
    np.savez(downloads / "mnist.npz", **dict(zip(ARCHIVED, ARRAYS, strict=True)))  # type: ignore[arg-type]
    monkeypatch.setattr(retrieval, "DOWNLOADS", f"{address}moved/")
    assert "HTTP Error 302" in refusal()
    monkeypatch.setattr(retrieval, "DOWNLOADS", address)
    monkeypatch.setattr(retrieval, "MAX_DOWNLOAD_BYTES", 1000)
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


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def small_kmnist(tmp_path: Path, downloads: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Serve a KMNIST of nine images, whose files have digests as they are published."""
    write_files(downloads, packed=True)
    files = tuple(
        Download(f"{retrieval.DOWNLOADS}{name}.gz", sha256(downloads / f"{name}.gz"))
        for name in FILES
    )
    small = PublishedDataset(("a", "b", "c"), "ink", per_class=(2, 1), downloads=files)
    monkeypatch.setitem(PUBLISHED, "kmnist", small)
    return downloads


def test_files_with_digests_are_downloaded_once(tmp_path: Path, small_kmnist: Path) -> None:
    dataset = load_published("kmnist")

    np.testing.assert_array_equal(dataset.train.images, ARRAYS[0])
    assert load_published("kmnist", download=False).test.labels.tolist() == [2, 1, 0]
    assert len([*(tmp_path / "keras" / "datasets" / "kmnist").iterdir()]) == 4


def test_a_download_with_another_digest_is_not_kept(tmp_path: Path, small_kmnist: Path) -> None:
    (small_kmnist / f"{FILES[0]}.gz").write_bytes(gzip.compress(idx.encode(ARRAYS[0][::-1])))
    with pytest.raises(DatasetNotFound, match="SHA-256"):
        load_published("kmnist")

    assert [*(tmp_path / "keras" / "datasets" / "kmnist").iterdir()] == []


def test_files_of_another_set_are_refused_by_their_counts(
    tmp_path: Path, small_kmnist: Path
) -> None:
    write_files(tmp_path / "given")
    labels = np.array([0, 1, 2, 0, 1, 1], np.uint8)
    (tmp_path / "given" / FILES[1]).write_bytes(idx.encode(labels))
    with pytest.raises(DatasetNotFound, match=r"2 of .* in each of 3 classes"):
        load_published("kmnist", tmp_path / "given", download=False)


@pytest.mark.parametrize(
    ("name", "labels", "files"),
    [
        ("cifar10", 1, [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]),
        ("cifar100", 2, ["train.bin", "test.bin"]),
    ],
)
def test_the_archives_of_cifar_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, labels: int, files: list[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (len(files) * 2, 32, 32, 3), np.uint8)
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    classes = np.arange(len(images), dtype=np.uint8)[:, None] % 2
    records = np.hstack([np.full_like(classes, 19)] * (labels - 1) + [classes, planes])
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number, file in enumerate(files):
            data = records[2 * number : 2 * number + 2].tobytes()
            member = tarfile.TarInfo(f"{name}-batches-bin/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    small = replace(
        PUBLISHED[name],
        class_names=("a", "b"),
        per_class=(len(files) - 1, 1),
        downloads=(Download("http://127.0.0.1:9/archive.tar.gz", sha256(path)),),
    )
    monkeypatch.setitem(PUBLISHED, name, small)
    dataset = load_published(name, tmp_path, download=False)

    np.testing.assert_array_equal(dataset.train.images, images[:-2])
    np.testing.assert_array_equal(dataset.test.images, images[-2:])
    assert dataset.test.labels.tolist() == [0, 1]
    assert dataset.spec == ImageSpec("photo", 32, 32, 3)


@pytest.mark.parametrize("packed", [False, True], ids=["files", "archive"])
def test_images_of_emnist_are_turned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    names = [f"emnist-balanced-{name.replace('t10k', 'test')}.gz" for name in FILES]
    with zipfile.ZipFile(tmp_path / "gzip.zip", "w") as archive:
        for name, array in zip(names, ARRAYS, strict=True):
            data = gzip.compress(idx.encode(array))
            archive.writestr(f"gzip/{name}", data)
            if not packed:
                (tmp_path / name).write_bytes(data)
    small = PublishedDataset(
        ("a", "b", "c"),
        "ink",
        per_class=(2, 1),
        downloads=(Download("http://127.0.0.1:9/gzip.zip", sha256(tmp_path / "gzip.zip")),),
    )
    monkeypatch.setitem(PUBLISHED, "emnist", small)
    if not packed:
        (tmp_path / "gzip.zip").unlink()
    dataset = load_published("emnist", tmp_path, download=False)

    np.testing.assert_array_equal(dataset.train.images, ARRAYS[0].swapaxes(1, 2))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_complete(name: str) -> None:
    published = PUBLISHED[name]

    assert len(set(published.class_names)) == len(published.class_names)
    assert published.digests or (published.downloads and min(published.per_class) > 0)
    assert all(len(each.sha256) == 64 for each in published.downloads)
    assert len(published.japanese) in (0, len(published.class_names))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=f"Tried: {tmp_path}/given: "):
        load_published("fashion-mnist", tmp_path / "given", download=False)


def test_class_names_have_the_published_order() -> None:
    # Source: Zalando Research, Fashion-MNIST README, table "Labels".
    names = PUBLISHED["fashion-mnist"].class_names
    assert (names[0], names[5], names[9], len(names)) == ("T-shirt/top", "Sandal", "Ankle boot", 10)
    assert PUBLISHED["mnist"].class_names == tuple(str(digit) for digit in range(10))


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
