"""A user's own IDX files: images of any size, class names, and invalid files."""

import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.images.arrays import idx
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec
from tests.support import pictures
from train.data.datasets import load_dataset
from train.data.image_options import ImageOptions
from train.data.own import arrays
from train.data.own.idx_folders import FILES, load_idx_folder

TRAIN_LABELS = [3, 7] * 15
TEST_LABELS = [7, 3] * 5


def write(
    folder: Path, arrays: Mapping[str, ArrayLike] | None = None, *, packed: bool = False
) -> Path:
    """Write the four files: the given arrays, or else noise of 28 × 28 and two labels."""
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
    dataset = load_idx_folder(
        write(tmp_path / "My Digits", packed=packed), options=ImageOptions(look="ink")
    )

    np.testing.assert_array_equal(dataset.train.images, pictures.digits(30))
    np.testing.assert_array_equal(dataset.test.images, pictures.digits(10, seed=1))
    assert dataset.train.labels.tolist() == [0, 1] * 15
    assert dataset.test.labels.tolist() == [1, 0] * 5
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (
        np.dtype(np.uint8),
        np.dtype(np.int64),
    )
    assert (dataset.name, dataset.class_names, dataset.look) == ("my-digits", ("3", "7"), "ink")
    assert dataset.source == "own arrays from My Digits"


def test_classes_txt_names_the_classes(tmp_path: Path) -> None:
    write(tmp_path, {"train_labels": [0, 1] * 15, "test_labels": [0, 1] * 5})
    (tmp_path / "classes.txt").write_text("\ufeff長靴\n  rain boot \n\n", encoding="utf-8")
    dataset = load_idx_folder(tmp_path, options=ImageOptions(look="object"))

    assert dataset.class_names == ("長靴", "rain boot")
    assert dataset.train.labels[:3].tolist() == [0, 1, 0]


@pytest.mark.parametrize("look", ["ink", "object"])
@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (40, 30)], ids=str)
def test_images_of_any_size_are_normalized(
    tmp_path: Path, shape: tuple[int, int], look: str
) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (30, *shape), dtype=np.uint8)
    write(tmp_path, {"train_images": images, "test_images": images[:10]})
    dataset = load_idx_folder(tmp_path, options=ImageOptions.of(look=look))

    assert dataset.train.images.shape == (30, 28, 28)
    for image, expected in zip(dataset.train.images, images, strict=True):
        np.testing.assert_array_equal(image, normalize_pixels(expected, ImageSpec(look)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arrays", "code", "facts"),
    [
        pytest.param(
            {"train_labels": TRAIN_LABELS[:-1]},
            "counts_differ",
            ["train", "30 images", "29 labels"],
            id="other counts",
        ),
        pytest.param(
            {"test_labels": [3, 7, 8, 3, 7, 3, 7, 3, 7, 3]},
            "classes_differ",
            ["test", "'8'"],
            id="other classes",
        ),
        pytest.param(
            {"train_labels": [3] * 30, "test_labels": [3] * 10},
            "one_class",
            ["'3'"],
            id="one class",
        ),
        pytest.param(
            {"train_labels": [3] * 22 + [7] * 8, "test_labels": [3] * 9 + [7]},
            "too_few_images",
            ["at least 10", "'7' has 9"],
            id="few",
        ),
        pytest.param(
            {"test_images": np.zeros((0, 28, 28)), "test_labels": []},
            "empty_split",
            ["test"],
            id="empty test split",
        ),
        pytest.param(
            {"train_images": np.zeros((30, 783))},
            "invalid_idx",
            ["train-images-idx3-ubyte", "(n, height, width)", "2 pixels", "(30, 783)"],
            id="rows of no square",
        ),
        pytest.param(
            {"train_images": np.zeros((30, 28, 1))},
            "invalid_idx",
            ["train-images-idx3-ubyte", "(n, height, width)", "2 pixels", "(30, 28, 1)"],
            id="lines",
        ),
        pytest.param(
            {"test_labels": np.zeros((10, 2))},
            "invalid_idx",
            ["t10k-labels-idx1-ubyte", "(n,)", "(10, 2)"],
            id="one-hot labels",
        ),
    ],
)
def test_files_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, arrays: dict[str, ArrayLike], code: str, facts: list[str]
) -> None:
    write(tmp_path, arrays)
    with pytest.raises(InvalidDataset) as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert (raised.value.code, raised.value.exit_code) == (code, 1)
    assert all(fact in raised.value.message for fact in [str(tmp_path), *facts])


def test_class_names_of_labels_that_start_at_1_are_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, {"train_labels": [1, 2] * 15, "test_labels": [2, 1] * 5})
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    dataset = load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1] * 15
    assert dataset.test.labels.tolist() == [1, 0] * 5


@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param(lambda name: name.replace("-idx", ".idx"), id="Kaggle's dots"),
        pytest.param(lambda name: f"{name}/{name}", id="Kaggle's folders"),
        pytest.param(lambda name: f"letters-{name}", id="prefix"),
    ],
)
def test_files_may_be_named_as_their_copies_on_kaggle(
    tmp_path: Path, spelling: Callable[[str], str]
) -> None:
    write(tmp_path / "plain")
    for name in FILES:
        path = tmp_path / "copy" / spelling(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / "plain" / name).read_bytes())
    dataset = load_idx_folder(tmp_path / "copy", options=ImageOptions(look="ink"))

    np.testing.assert_array_equal(dataset.test.images, pictures.digits(10, seed=1))
    assert dataset.train.labels.tolist() == [0, 1] * 15


def test_emnist_is_read_as_published(tmp_path: Path) -> None:
    """Its images are transposed, its labels start at 1, and several sets share a folder."""
    turned = pictures.digits(40).transpose(0, 2, 1)
    for letters in ("letters", "balanced"):
        files = {
            "train-images-idx3-ubyte": turned[:30],
            "train-labels-idx1-ubyte": np.array([1, 2] * 15, np.uint8),
            "test-images-idx3-ubyte": turned[30:],
            "test-labels-idx1-ubyte": np.array([2, 1] * 5, np.uint8),
        }
        for name, array in files.items():
            packed = gzip.compress(idx.encode(array))
            (tmp_path / f"emnist-{letters}-{name}.gz").write_bytes(packed)
    (tmp_path / "emnist-letters-mapping.txt").write_text("1 65 97\n2 66 98\n")

    dataset = load_dataset(f"idx:{tmp_path}/emnist-letters", options=ImageOptions(look="ink"))
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"idx:{tmp_path}", options=ImageOptions(look="ink"))

    assert (dataset.name, dataset.class_names) == ("emnist-letters", ("A", "B"))
    np.testing.assert_array_equal(dataset.train.images, pictures.digits(40)[:30])
    np.testing.assert_array_equal(dataset.test.images, pictures.digits(40)[30:])
    assert dataset.test.labels.tolist() == [1, 0] * 5
    assert raised.value.code == "several_datasets"
    assert f"idx:{tmp_path}/emnist-balanced" in raised.value.message


@pytest.mark.parametrize("line", ["1", "1 A", "x 65", "1 99999999999999999999"])
def test_wrong_mapping_of_emnist_is_refused(tmp_path: Path, line: str) -> None:
    for name in FILES:
        (tmp_path / f"emnist-x-{name}").write_bytes((write(tmp_path / "x") / name).read_bytes())
    (tmp_path / "emnist-x-mapping.txt").write_text(f"{line}\n")
    with pytest.raises(InvalidDataset) as raised:
        load_idx_folder(tmp_path / "emnist-x", options=ImageOptions(look="ink"))

    assert raised.value.code == "invalid_class_names"


def test_labels_without_a_class_name_are_listed(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\nthree\n")
    with pytest.raises(InvalidDataset, match=r"classes\.txt.* 4 .*0 to 3.*train.*7") as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert raised.value.code == "labels_outside"


def test_a_named_class_without_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train_labels": [0, 1] * 15, "test_labels": [0, 1] * 5})
    (tmp_path / "classes.txt").write_text("zero\none\ntwo\n")
    with pytest.raises(InvalidDataset, match="'two' has 0") as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert raised.value.code == "too_few_images"


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        (b"boot\nbag\nboot\n", "'boot'"),
        (b"boot\n\nbag\n", "class 2 has no name"),
        (b"a\nb\nc\nd\ne\nf\ng\nb\x1b[1mag\n", "U+001B"),
        (b"\xff\xfeb\0", "'utf-8' codec can't decode byte 0xff in position 0"),
    ],
    ids=["twice", "empty line", "control character", "UTF-16"],
)
def test_class_names_must_be_different_lines_of_text(
    tmp_path: Path, text: bytes, fact: str
) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_bytes(text)
    with pytest.raises(InvalidDataset) as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert raised.value.code == "invalid_class_names"
    assert str(tmp_path) in raised.value.message
    assert fact in raised.value.message


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        (b"not at all", "no IDX header"),
        (
            idx.encode(np.arange(30, dtype=np.uint8))[:-1],
            "an IDX header of shape (30,) followed by 29 bytes",
        ),
        (
            gzip.compress(idx.encode(np.arange(30, dtype=np.uint8)), mtime=0)[:-12],
            "Compressed file ended before the end-of-stream",
        ),
    ],
    ids=["text", "cut short", "gzip cut short"],
)
def test_a_corrupt_file_is_named_with_the_reason(tmp_path: Path, data: bytes, fact: str) -> None:
    write(tmp_path)
    (tmp_path / FILES[1]).write_bytes(data)
    with pytest.raises(InvalidDataset) as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert raised.value.code == "invalid_idx"
    assert str(tmp_path / FILES[1]) in raised.value.message
    assert fact in raised.value.message


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_a_header_that_claims_terabytes_is_refused(
    tmp_path: Path, packed: bool, number: int
) -> None:
    write(tmp_path)
    shape = (2**32 - 1,) if number % 2 else (2**32 - 1, 28, 28)
    data = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(10_000)
    (tmp_path / FILES[number]).write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(InvalidDataset, match="4294967295") as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert (raised.value.code, raised.value.exit_code) == ("invalid_idx", 1)
    assert str(tmp_path / FILES[number]) in raised.value.message


def test_counts_are_compared_before_anything_is_unpacked(tmp_path: Path) -> None:
    write(tmp_path)
    images = gzip.compress(idx.encode(np.zeros((80_000, 28, 28), np.uint8)))
    (tmp_path / FILES[0]).write_bytes(images)  # 61 KB that unpack to 63 MB
    tracemalloc.start()
    with pytest.raises(InvalidDataset, match="80,000 images, but 30 labels") as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert raised.value.code == "counts_differ"
    assert peak < 2**20


def test_images_and_counts_beyond_the_limits_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setenv("LOUPE_MAX_IMAGE_PIXELS", "783")
    with pytest.raises(InvalidDataset, match=r"28 × 28 .* 783 pixels") as large:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))
    monkeypatch.delenv("LOUPE_MAX_IMAGE_PIXELS")
    monkeypatch.setattr(arrays, "MAX_IMAGES", 29)
    with pytest.raises(InvalidDataset, match="30 items") as many:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert (large.value.code, many.value.code) == ("invalid_idx", "invalid_idx")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", [*FILES, "classes.txt"])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(tmp_path / name)
    else:
        (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(InvalidDataset, match=f"'{tmp_path / name}'.*Not a regular file"):
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))


def test_class_names_of_any_length_are_read_in_linear_time(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").write_text("".join(f"{number}\n" for number in range(100_000)))
    with pytest.raises(InvalidDataset, match="and 99,988 more"):
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))
    (tmp_path / "classes.txt").write_text("x" * 2**21)
    with pytest.raises(InvalidDataset, match="more than 1,048,576 bytes") as raised:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))

    assert raised.value.code == "invalid_class_names"


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / FILES[3]).unlink()
    with pytest.raises(InvalidDataset, match=f"{tmp_path / FILES[3]}.*\\.gz") as missing_file:
        load_idx_folder(tmp_path, options=ImageOptions(look="ink"))
    with pytest.raises(InvalidUsage, match="nowhere") as missing_folder:
        load_idx_folder(tmp_path / "nowhere", options=ImageOptions(look="ink"))

    assert missing_file.value.code == "invalid_idx"
    assert (missing_folder.value.code, missing_folder.value.exit_code) == ("folder_not_found", 2)
