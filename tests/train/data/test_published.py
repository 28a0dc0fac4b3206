"""Published data sets: locations and digests. Nothing is downloaded."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import DatasetNotFound
from loupe.images import idx
from train.data import published
from train.data.idx_folders import FILES
from train.data.published import IDX_DATASETS, IdxDataset, load_published
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
    digests = {
        name: hashlib.sha256(idx.encode(array)).hexdigest()
        for name, array in zip(FILES, ARRAYS, strict=True)
    }
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
    lines = raised.value.message.splitlines()[1:5]
    for line, fact in zip(
        lines,
        (
            "train-images-idx3-ubyte",
            f"{tmp_path}/debian/mnist/t10k-images-idx3-ubyte",
            "no IDX header",
            f"{tmp_path}/keras/datasets/mnist.npz: ",
        ),
        strict=True,
    ):
        assert fact in line


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=f"- {tmp_path}/given: "):
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
