"""A user's own data set in `.npz` archives and in CSV files of pixels."""

import gzip
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe.errors import InvalidDataset, InvalidUsage
from tests.support import pictures
from train.data.datasets import load_dataset
from train.data.image_options import ImageOptions

IMAGES = pictures.digits(60)
LABELS = np.array([0, 1, 2] * 20)
PHOTOS = np.random.default_rng(0).integers(0, 256, (60, 20, 20, 3), dtype=np.uint8)


def write_csv(path: Path, images: np.ndarray, labels: np.ndarray, first: int = 0) -> Path:
    """Write Kaggle's CSV: a label and a column for each pixel."""
    numbers = range(first, first + images[0].size)
    header = ",".join(["label", *(f"pixel{number}" for number in numbers)])
    rows = [
        ",".join(map(str, [label, *image.ravel()]))
        for image, label in zip(images, labels, strict=True)
    ]
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("X_train", "Y_train", "X_test", "Y_test"),
    ],
    ids=lambda names: names[0],
)
@pytest.mark.parametrize("shape", [(-1, 28, 28), (-1, 28, 28, 1), (-1, 784)], ids=str)
def test_arrays_of_an_archive_are_splits(
    tmp_path: Path, names: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    values = (IMAGES[:45].reshape(shape), LABELS[:45], IMAGES[45:].reshape(shape), LABELS[45:])
    arrays: dict[str, Any] = dict(zip(names, values, strict=True))
    np.savez_compressed(tmp_path / "own.npz", **arrays)
    dataset = load_dataset(f"npz:{tmp_path}/own.npz", options=ImageOptions(look="ink"))

    assert (dataset.name, dataset.class_names) == ("own", ("0", "1", "2"))
    np.testing.assert_array_equal(dataset.train.images, IMAGES[:45])
    np.testing.assert_array_equal(dataset.test.images, IMAGES[45:])
    assert dataset.test.labels.tolist() == LABELS[45:].tolist()


@pytest.mark.parametrize("layout", ["rows", "colours first"])
def test_arrays_of_colours_are_photos_in_any_layout(tmp_path: Path, layout: str) -> None:
    arrays = PHOTOS.reshape(60, -1) if layout == "rows" else PHOTOS.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "own.npz", x=arrays, y=LABELS, x_test=arrays, y_test=LABELS)
    dataset = load_dataset(f"npz:{tmp_path}/own.npz")

    assert dataset.look == "photo"
    np.testing.assert_array_equal(dataset.train.images, PHOTOS)


def test_validation_arrays_are_the_validation_split(tmp_path: Path) -> None:
    splits = {"train": slice(0, 30), "val": slice(30, 45), "test": slice(45, 60)}
    arrays: dict[str, Any] = {f"{name}_images": IMAGES[rows] for name, rows in splits.items()}
    arrays |= {f"{name}_labels": LABELS[rows, np.newaxis] for name, rows in splits.items()}
    np.savez(tmp_path / "medmnist.npz", **arrays)
    dataset = load_dataset(f"npz:{tmp_path}/medmnist.npz", options=ImageOptions(look="ink"))

    assert dataset.validation is not None
    np.testing.assert_array_equal(dataset.validation.images, IMAGES[30:45])


def test_archives_of_one_array_are_named_by_their_files(tmp_path: Path) -> None:
    for name, array in (
        ("train-imgs", IMAGES[:45]),
        ("train-labels", LABELS[:45]),
        ("test-imgs", IMAGES[45:]),
        ("test-labels", LABELS[45:]),
    ):
        np.savez(tmp_path / f"k49-{name}.npz", array)
    (tmp_path / "classes.txt").write_text("あ\nい\nう\n")
    dataset = load_dataset(f"npz:{tmp_path}", options=ImageOptions(look="ink"))

    assert dataset.class_names == ("あ", "い", "う")
    np.testing.assert_array_equal(dataset.train.images, IMAGES[:45])


def test_archive_without_a_test_split_is_split_here(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=IMAGES, y=LABELS)
    dataset = load_dataset(
        f"npz:{tmp_path}/own.npz", options=ImageOptions(look="ink"), test_fraction=0.25
    )

    assert (len(dataset.train.labels), len(dataset.test.labels)) == (45, 15)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        pytest.param(LABELS.astype(np.float32), ("0", "1", "2"), id="floats"),
        pytest.param(LABELS - 1, ("-1", "0", "1"), id="negative"),
        pytest.param(LABELS.astype(">u2"), ("0", "1", "2"), id="big-endian"),
        pytest.param(np.array([b"cat", b"\xc3\xa9", b"ape"])[LABELS], ("ape", "cat", "é"), id="S"),
    ],
)
def test_labels_may_be_of_any_kind(
    tmp_path: Path, labels: np.ndarray, names: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "own.npz", x=IMAGES, y=labels, x_test=IMAGES, y_test=labels)
    dataset = load_dataset(f"npz:{tmp_path}/own.npz", options=ImageOptions(look="ink"))

    assert dataset.class_names == names
    meant = [names.index("cat"), names.index("é"), names.index("ape")] if "é" in names else range(3)
    assert dataset.test.labels.tolist() == [meant[label] for label in LABELS]


@pytest.mark.parametrize(
    ("arrays", "code", "fact"),
    [
        ({"x": IMAGES}, "empty_split", "labels"),
        ({"y": LABELS}, "empty_split", "images"),
        ({"x": IMAGES, "y": LABELS[:-1]}, "counts_differ", "59"),
        ({"x": IMAGES / 255, "y": LABELS}, "invalid_arrays", "float64"),
        ({"x": IMAGES.astype(int) + 200, "y": LABELS}, "invalid_arrays", "255"),
        ({"x": np.zeros((60, 28, 28, 4), np.uint8), "y": LABELS}, "invalid_arrays", "28, 4"),
        ({"x": np.zeros((60, 800), np.uint8), "y": LABELS}, "invalid_arrays", "(60, 800)"),
        ({"x": np.zeros((60, 4, 28, 28), np.uint8), "y": LABELS}, "invalid_arrays", "4, 28"),
        ({"x": IMAGES, "y": LABELS / 2}, "invalid_arrays", "label 2 is 0.5"),
        ({"x": IMAGES, "y": [*LABELS[1:], np.nan]}, "invalid_arrays", "label 60 is nan"),
        ({"x": IMAGES, "y": np.eye(3)[LABELS]}, "invalid_arrays", "argmax"),
        ({"x": IMAGES, "y": np.array([*"abc"], object)[LABELS]}, "invalid_arrays", "objects"),
        ({"x": IMAGES, "images": IMAGES, "y": LABELS}, "invalid_arrays", "images"),
        ({"x": np.array([None] * 60), "y": LABELS}, "invalid_arrays", "x"),
    ],
)
def test_archives_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, arrays: dict[str, Any], code: str, fact: str
) -> None:
    np.savez(tmp_path / "own.npz", allow_pickle=True, **arrays)
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"npz:{tmp_path}/own.npz")

    assert raised.value.code == code
    assert fact in raised.value.message
    assert "own.npz" in raised.value.message


def test_labels_may_be_truth_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=IMAGES, y=LABELS > 0, x_test=IMAGES, y_test=LABELS > 0)
    dataset = load_dataset(f"npz:{tmp_path}/own.npz", options=ImageOptions(look="ink"))

    assert dataset.class_names == ("0", "1")
    assert dataset.test.labels.tolist() == (LABELS > 0).tolist()


def test_archive_is_measured_before_it_is_unpacked(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "own.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x_train.npy", "w", force_zip64=True) as file,
    ):
        head = {"descr": "|u1", "fortran_order": False, "shape": (2**21, 28, 28)}
        np.lib.format.write_array_header_1_0(file, head)
        for _ in range(2**10 + 200):
            file.write(bytes(2**20))
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"npz:{tmp_path}/own.npz")

    assert raised.value.code == "invalid_arrays"


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all", b"PK\x03\x04" + bytes(40)])
def test_damaged_archive_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"npz:{tmp_path}/own.npz")

    assert raised.value.code == "invalid_arrays"


@pytest.mark.parametrize("first", [0, 1], ids=["pixel0", "pixel1"])
def test_csv_of_pixels_is_a_data_set(tmp_path: Path, first: int) -> None:
    write_csv(tmp_path / "own_train.csv", IMAGES[:45], LABELS[:45], first)
    write_csv(tmp_path / "own_test.csv", IMAGES[45:], LABELS[45:], first)
    for name in ("own_train.csv", ""):
        dataset = load_dataset(f"csv:{tmp_path}/{name}", options=ImageOptions(look="ink"))

        assert dataset.class_names == ("0", "1", "2")
        np.testing.assert_array_equal(dataset.train.images, IMAGES[:45])
        np.testing.assert_array_equal(dataset.test.images, IMAGES[45:])


@pytest.mark.parametrize("images", [PHOTOS[..., 0], PHOTOS], ids=["grey", "colour"])
@pytest.mark.parametrize("has_header", [True, False])
def test_csv_has_images_of_any_size(tmp_path: Path, images: np.ndarray, has_header: bool) -> None:
    for name in ("own_train.csv", "own_test.csv"):
        path = write_csv(tmp_path / name, images, LABELS)
        if not has_header:
            path.write_text(path.read_text().partition("\n")[2])
    dataset = load_dataset(f"csv:{tmp_path}/own_train.csv", options=ImageOptions(look="photo"))

    np.testing.assert_array_equal(dataset.train.images, images)
    np.testing.assert_array_equal(dataset.test.images, images)
    assert dataset.test.labels.tolist() == LABELS.tolist()


def test_csv_of_large_images_has_a_long_header(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "own.csv", np.zeros((20, 128, 128, 3), np.uint8), np.arange(20) % 2)
    dataset = load_dataset(f"csv:{path}", test_fraction=0.2)

    assert dataset.train.images.shape == (16, 128, 128, 3)


def test_csv_of_another_number_of_pixels_names_both_sizes(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "own.csv", PHOTOS.reshape(60, -1)[:, :-1], LABELS)
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"csv:{path}")

    assert raised.value.code == "invalid_arrays"
    for fact in ("1,199 columns", "1,200", "20 × 20 × 3", "missing: 1199"):
        assert fact in raised.value.message


def test_csv_with_names_of_classes_and_an_unlabelled_test_file(tmp_path: Path) -> None:
    """Kaggle's competitions have no labels for the test split."""
    names = np.array(["cat", "dog", "eel"])[LABELS]
    path = write_csv(tmp_path / "train.csv", IMAGES, names)
    unlabelled = write_csv(tmp_path / "test.csv", IMAGES[:3], LABELS[:3])
    unlabelled.write_text(
        "\n".join(line.partition(",")[2] for line in unlabelled.read_text().splitlines()) + "\n"
    )
    dataset = load_dataset(f"csv:{path}", options=ImageOptions(look="ink"))

    assert dataset.class_names == ("cat", "dog", "eel")
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (48, 12)


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "x" * 100_000, "\0" * 100])
def test_csv_without_pixels_is_one_clear_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"csv:{tmp_path}/own.csv")

    assert raised.value.code == "invalid_arrays"


def test_compressed_csv_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "own.csv", IMAGES, LABELS)
    path.with_name("own.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(InvalidDataset, match="compressed") as raised:
        load_dataset(f"csv:{path}.gz")

    assert raised.value.code == "invalid_arrays"


def test_csv_with_a_wrong_pixel_names_the_row(tmp_path: Path) -> None:
    images = IMAGES.astype(int)
    images[7, 3, 4] = 256
    path = write_csv(tmp_path / "own.csv", images, LABELS)
    with pytest.raises(InvalidDataset, match="row 8 ") as raised:
        load_dataset(f"csv:{path}")

    assert raised.value.code == "invalid_arrays"


@pytest.mark.parametrize(
    ("row", "facts"),
    [
        pytest.param(["", *[0] * 784], ["row 3", "no label"], id="no label"),
        pytest.param([" ", *[0] * 784], ["row 3", "no label"], id="blank label"),
        pytest.param(["nan", *[0] * 784], ["label 3", "nan"], id="NaN"),
        pytest.param(["1.5", *[0] * 784], ["label 3", "1.5"], id="fraction"),
        pytest.param([1, *[0] * 783], ["row 3", "785 values"], id="short"),
        pytest.param([1, *[0] * 785], ["row 3", "785 values"], id="long"),
    ],
)
def test_csv_with_a_wrong_row_names_it(tmp_path: Path, row: list[object], facts: list[str]) -> None:
    path = write_csv(tmp_path / "own.csv", IMAGES, LABELS)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], ",".join(map(str, row)), *lines[3:]]) + "\n")
    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"csv:{path}")

    assert raised.value.code == "invalid_arrays"
    for fact in facts:
        assert fact in raised.value.message


def test_classes_of_a_csv_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "own.csv", IMAGES, LABELS * 5 - 1)

    assert load_dataset(f"csv:{path}", options=ImageOptions(look="ink")).class_names == (
        "-1",
        "4",
        "9",
    )


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_nothing_at_the_path_is_wrong_usage(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InvalidUsage):
        load_dataset(f"{kind}:{tmp_path}/nowhere.{kind}")
    with pytest.raises(InvalidDataset):
        load_dataset(f"{kind}:{tmp_path}")


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_path_of_a_file_is_recognised(kind: str) -> None:
    with pytest.raises(InvalidUsage, match=f"'own.{kind}'") as caught:
        load_dataset(f"own.{kind}")
    assert caught.value.code == "folder_not_found"
