"""A user's own IDX files: any size of image, named classes or numbers, and what is wrong with files that are none."""

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from loupe.images import idx
from loupe.images.normalize import normalize
from loupe.old_errors.train import (
    ClassesDiffer,
    CountsDiffer,
    EmptySplit,
    FolderNotFound,
    InvalidClassNames,
    InvalidDataset,
    InvalidIdx,
    LabelsOutside,
    OneClass,
    TooFewImages,
)
from tests.support import pictures
from train.data.idx_folders import FILES, load_idx_folder

TRAIN_LABELS = [3, 7] * 15
TEST_LABELS = [7, 3] * 5


def write(
    folder: Path, arrays: Mapping[str, ArrayLike] | None = None, *, packed: bool = False
) -> Path:
    """The four files: noise of 28 × 28 and two labels, or the arrays that are given by name."""
    given = {
        "train_images": pictures.digits(30),
        "train_labels": TRAIN_LABELS,
        "test_images": pictures.digits(10, seed=1),
        "test_labels": TEST_LABELS,
        **(arrays or {}),
    }
    folder.mkdir(exist_ok=True)
    for name, array in zip(FILES, given.values(), strict=True):
        data = idx.encode(np.asarray(array, np.uint8))
        (folder / (f"{name}.gz" if packed else name)).write_bytes(
            gzip.compress(data) if packed else data
        )
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_four_files_are_a_data_set(tmp_path: Path, packed: bool) -> None:
    dataset = load_idx_folder(write(tmp_path / "My Digits", packed=packed), look="ink")

    np.testing.assert_array_equal(dataset.train.images, pictures.digits(30))
    np.testing.assert_array_equal(dataset.test.images, pictures.digits(10, seed=1))
    assert dataset.train.labels.tolist() == [0, 1] * 15
    assert dataset.test.labels.tolist() == [1, 0] * 5
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (
        np.dtype(np.uint8),
        np.dtype(np.int64),
    )
    assert (dataset.name, dataset.class_names, dataset.look) == ("my-digits", ("3", "7"), "ink")
    assert dataset.source == "IDX files of one's own, from the folder My Digits"


def test_class_names_are_the_lines_of_a_file_beside_the_others(tmp_path: Path) -> None:
    write(tmp_path, {"train_labels": [0, 1] * 15, "test_labels": [0, 1] * 5})
    (tmp_path / "classes.txt").write_text("\ufeff長靴\n  rain boot \n\n", encoding="utf-8")
    dataset = load_idx_folder(tmp_path, look="object")

    assert dataset.class_names == ("長靴", "rain boot")
    assert dataset.train.labels[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("look", ["ink", "object"])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (40, 30)], ids=str)
def test_images_of_any_size_are_made_to_look_like_training_data(
    tmp_path: Path, shape: tuple[int, int], look: str
) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (30, *shape), dtype=np.uint8)
    write(tmp_path, {"train_images": images, "test_images": images[:10]})
    dataset = load_idx_folder(tmp_path, look=look)  # type: ignore[arg-type]

    assert dataset.train.images.shape == (30, 28, 28)
    for image, expected in zip(dataset.train.images, images, strict=True):
        np.testing.assert_array_equal(image, normalize(expected, look))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "error", "text"),
    [
        pytest.param(
            {"train_labels": TRAIN_LABELS[:-1]},
            CountsDiffer,
            "Expected as many labels as images in the train split in '{}'. Received: 30 images, 29 labels.",
            id="other counts",
        ),
        pytest.param(
            {"test_labels": [3, 7, 8, 3, 7, 3, 7, 3, 7, 3]},
            ClassesDiffer,
            "Expected the same classes in test as in train in '{}'. Received: images of '8', which train has not.",
            id="other classes",
        ),
        pytest.param(
            {"train_labels": [3] * 30, "test_labels": [3] * 10},
            OneClass,
            "Expected images of at least two classes in '{}'. Received: one class, '3'. In folder:DIR, each folder is a class.",
            id="one class",
        ),
        pytest.param(
            {"train_labels": [3] * 22 + [7] * 8, "test_labels": [3] * 9 + [7]},
            TooFewImages,
            "Expected at least 10 readable images of each class in '{}'. Received: 9 of '7'. Add images, or take the class away.",
            id="few",
        ),
        pytest.param(
            {"test_images": np.zeros((0, 28, 28)), "test_labels": []},
            EmptySplit,
            "Expected images in the test split in '{}'. Received: none.",
            id="empty test split",
        ),
        pytest.param(
            {"train_images": np.zeros((30, 784))},
            InvalidIdx,
            "Expected images of shape (n, height, width), each side at least 2 pixels at '{}/train-images-idx3-ubyte'. "
            "Received: shape (30, 784).",
            id="flat images",
        ),
        pytest.param(
            {"train_images": np.zeros((30, 28, 1))},
            InvalidIdx,
            "Expected images of shape (n, height, width), each side at least 2 pixels at '{}/train-images-idx3-ubyte'. "
            "Received: shape (30, 28, 1).",
            id="lines",
        ),
        pytest.param(
            {"test_labels": np.zeros((10, 2))},
            InvalidIdx,
            "Expected labels of shape (n,) at '{}/t10k-labels-idx1-ubyte'. Received: shape (10, 2).",
            id="one-hot labels",
        ),
    ],
)
def test_files_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, arrays: dict[str, ArrayLike], error: type[InvalidDataset], text: str
) -> None:
    write(tmp_path, arrays)
    with pytest.raises(error) as raised:
        load_idx_folder(tmp_path, look="ink")

    assert raised.value.message == text.format(tmp_path)
    assert raised.value.exit_code == 1


def test_labels_outside_the_named_classes_are_listed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\nthree\n")
    with pytest.raises(LabelsOutside) as raised:
        load_idx_folder(tmp_path, look="ink")

    assert raised.value.message == (
        f"Expected labels from 0 to 3 in the train split, as there are 4 class names in '{tmp_path}'. Received: 7."
    )


def test_a_named_class_without_images_is_told(tmp_path: Path) -> None:
    write(tmp_path, {"train_labels": [0, 1] * 15, "test_labels": [0, 1] * 5})
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\n")
    with pytest.raises(TooFewImages, match=r"Received: 0 of 'two'\."):
        load_idx_folder(tmp_path, look="ink")


@pytest.mark.parametrize(
    ("text", "received"),
    [
        (b"boot\nbag\nboot\n", "'boot' again in line 3"),
        (b"boot\n\nbag\n", "line 2 is empty"),
        (b"\xff\xfeb\0", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
    ids=["twice", "empty line", "UTF-16"],
)
def test_class_names_that_name_no_class_once_are_refused(
    tmp_path: Path, text: bytes, received: str
) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(InvalidClassNames) as raised:
        load_idx_folder(tmp_path, look="ink")

    assert raised.value.message == (
        f"Expected one class name a line in '{tmp_path}/classes.txt', each different. Received: {received}."
    )


@pytest.mark.parametrize(
    ("data", "received"),
    [
        (b"not at all", "no IDX header"),
        (
            idx.encode(np.arange(30, dtype=np.uint8))[:-1],
            "an IDX header of shape (30,) followed by 29 bytes",
        ),
        (
            gzip.compress(idx.encode(np.arange(30, dtype=np.uint8)))[:-12],
            "Compressed file ended before the end-of-stream",
        ),
    ],
    ids=["text", "cut short", "gzip cut short"],
)
def test_a_corrupt_file_is_named_with_what_is_wrong(
    tmp_path: Path, data: bytes, received: str
) -> None:
    write(tmp_path)
    (tmp_path / FILES[1]).write_bytes(data)
    with pytest.raises(InvalidIdx) as raised:
        load_idx_folder(tmp_path, look="ink")

    assert raised.value.message.startswith(
        f"Expected a whole IDX file of unsigned bytes at '{tmp_path / FILES[1]}'. Received: {received}"
    )


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FILES[3]).unlink()
    with pytest.raises(InvalidIdx) as missing_file:
        load_idx_folder(tmp_path, look="ink")
    with pytest.raises(FolderNotFound) as missing_folder:
        load_idx_folder(tmp_path / "nowhere", look="ink")

    assert missing_file.value.message == (
        f"Expected an IDX file at '{tmp_path / FILES[3]}'. Received: nothing, and no .gz of that name."
    )
    assert missing_folder.value.exit_code == 2
