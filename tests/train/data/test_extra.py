"""A user's own pictures of the same classes: which folder is which class, and where the pictures go."""

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import LoupeError
from loupe.old_errors.train import (
    FolderNotFound,
    InvalidDatasetOption,
    InvalidMapping,
    TooFewImages,
)
from tests.support import pictures
from tests.support.pictures import sort_into_folders
from train.data.datasets import load_dataset
from train.data.extra import find_class, mix, read_mapping

SHAPES = pictures.shapes()  # across, upright, square
CLASSES = " The classes are: across, upright, square."


def mapping_file(folder: Path, text: str) -> Path:
    path = folder / "mapping.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_fifth_becomes_the_extra_split_and_the_rest_is_trained_on(tmp_path: Path) -> None:
    sort_into_folders(tmp_path / "mine", {"Upright": 10, "SQUARE": 20})
    mixed = mix(SHAPES, f"folder:{tmp_path / 'mine'}")

    assert mixed.extra is not None
    assert mixed.extra.counts(SHAPES.class_names) == {"across": 0, "upright": 2, "square": 4}
    np.testing.assert_array_equal(mixed.train.images[:32], SHAPES.train.images)
    assert np.bincount(mixed.train.labels[32:]).tolist() == [0, 8, 16]
    assert (mixed.test.digest(), mixed.validation) == (SHAPES.test.digest(), None)
    assert (mixed.name, mixed.class_names) == (SHAPES.name, SHAPES.class_names)
    assert mixed.source == "not stated; with 30 pictures of one's own, from the folder mine"


def test_the_pictures_are_made_to_look_like_those_of_the_data_set(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, {"upright": 10, "square": 10})
    (tmp_path / "square" / "0.png").write_bytes(pictures.png(np.full((60, 30), 250, np.uint8)))
    as_objects, as_ink = mix(SHAPES, tmp_path), mix(replace(SHAPES, look="ink"), tmp_path)

    assert as_objects.train.digest() != as_ink.train.digest()


def test_a_mapping_gives_folders_a_class_or_none(tmp_path: Path) -> None:
    folder = sort_into_folders(
        tmp_path / "mine", {"bars": 10, "lines, flat": 15, "box": 10, "dots": 3, "square": 10}
    )
    mapping = mapping_file(
        tmp_path, '\ufefffolder,class\nbars, across \n"lines, flat",Across\nbox,square\n\ndots,\n'
    )
    mixed = mix(SHAPES, folder, mapping)

    assert mixed.extra is not None
    assert mixed.extra.counts(SHAPES.class_names) == {"across": 5, "upright": 0, "square": 4}
    assert np.bincount(mixed.train.labels[32:]).tolist() == [20, 0, 16]


def test_folders_of_one_s_own_test_and_validation_pictures_are_honoured(tmp_path: Path) -> None:
    for number, (split, count) in enumerate([("train", 10), ("validation", 3), ("test", 4)]):
        sort_into_folders(tmp_path / split, {"across": count, "square": count}, seed=10 * number)
    alone = mix(SHAPES, tmp_path)
    beside = mix(replace(SHAPES, validation=SHAPES.test), tmp_path)

    assert alone.extra is not None
    assert beside.validation is not None
    assert (len(alone.train.labels), alone.validation, len(alone.extra.labels)) == (
        32 + 20 + 6,
        None,
        8,
    )
    assert (len(beside.train.labels), len(beside.validation.labels)) == (32 + 20, 16 + 6)


def test_unreadable_pictures_are_listed(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, {"across": 10, "square": 10})
    (tmp_path / "square" / "notes.txt").write_text("four corners")

    assert [item.path for item in mix(SHAPES, tmp_path).left_out] == ["square/notes.txt"]


@pytest.mark.parametrize(
    ("folders", "mapping", "message"),
    [
        pytest.param(
            {"across": 10, "circle": 10, "dots": 10},
            None,
            "Expected folders that a mapping file gives a class, or that have a class's very name, in '{}/mine'. "
            "Received: 'circle', 'dots'.",
            id="no mapping",
        ),
        pytest.param(
            {"across": 10, "circle": 10, "box": 10},
            "box,square\n",
            "Expected folders that a mapping file gives a class, or that have a class's very name, in '{}/mine'. "
            "Received: 'circle'.",
            id="not mapped",
        ),
        pytest.param(
            {"across": 10},
            "folder,class\nacross,sqaure\n",
            "Expected a class of the data set in line 2 in '{}/mapping.csv'. Received: 'sqaure'.",
            id="no such class",
        ),
        pytest.param(
            {"across": 10},
            "box,square\nline,across\n",
            "Expected only folders of '{}/mine' in '{}/mapping.csv'. Received: 'box', 'line'.",
            id="no such folder",
        ),
        pytest.param(
            {"box": 10},
            "box,square\nbox,across\n",
            "Expected each folder once in '{}/mapping.csv'. Received: 'box' again in line 2.",
            id="twice",
        ),
        pytest.param(
            {"box": 10},
            "box;square\n",
            "Expected two cells, folder and class, in line 1 in '{}/mapping.csv'. Received: 1, 'box;square'.",
            id="semicolons",
        ),
        pytest.param(
            {"box": 10},
            "box,\n",
            "Expected at least one folder with a class in '{}/mine'. Received: none.",
            id="all left out",
        ),
    ],
)
def test_folders_without_a_class_are_refused(
    tmp_path: Path, folders: dict[str, int], mapping: str | None, message: str
) -> None:
    folder = sort_into_folders(tmp_path / "mine", folders)
    with pytest.raises(InvalidMapping) as raised:
        mix(SHAPES, folder, mapping_file(tmp_path, mapping) if mapping else None)

    assert raised.value.message == message.replace("{}", str(tmp_path)) + CLASSES
    assert raised.value.exit_code == 1


def test_a_mapping_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(
        InvalidMapping,
        match=r"^Expected a CSV file in UTF-8 in '.*/photo\.csv'\. Received: 'utf-8' codec",
    ):
        read_mapping(tmp_path / "photo.csv", SHAPES.class_names)
    with pytest.raises(InvalidMapping, match=r"Received: \[Errno 2\] No such file or directory"):
        read_mapping(tmp_path / "nowhere.csv", SHAPES.class_names)


@pytest.mark.parametrize(
    ("folders", "error", "text"),
    [
        pytest.param(
            {"across": 10, "square": 9}, TooFewImages, "Received: 9 of 'square'.", id="few"
        ),
        pytest.param(None, FolderNotFound, "Received: nothing; no such folder.", id="no folder"),
    ],
)
def test_pictures_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, folders: dict[str, int] | None, error: type[LoupeError], text: str
) -> None:
    if folders:
        sort_into_folders(tmp_path / "mine", folders)
    with pytest.raises(error) as raised:
        mix(SHAPES, tmp_path / "mine")

    assert text in raised.value.message


def test_nothing_is_mixed_into_images_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(InvalidDatasetOption) as raised:
        mix(load_dataset("digits-8x8"), tmp_path)

    assert (
        raised.value.message
        == "The data set 'digits-8x8' does not take pictures of your own: its images are 8 × 8."
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("A", "A"),
        ("a", "a"),
        ("BOOT", "Boot"),
        ("ブーツ", "ブーツ"),
        (unicodedata.normalize("NFD", "ブーツ"), "ブーツ"),
        ("c", None),
    ],
    ids=["capital", "small", "in capitals", "Japanese", "as macOS stores it", "unknown"],
)
def test_classes_are_found_by_their_names(name: str, found: str | None) -> None:
    assert find_class(name, ("A", "a", "Boot", "ブーツ")) == found


def test_a_name_that_two_classes_resemble_is_neither() -> None:
    assert find_class("Ab", ("AB", "ab")) is None


def test_phone_photos_are_mixed_into_fashion_mnist(tmp_path: Path) -> None:
    folder = os.environ.get("LOUPE_TEST_DATA")
    if folder is None or not Path(folder, "clothing").is_dir():
        pytest.skip("LOUPE_TEST_DATA names no folder with clothing/")
    mapping = mapping_file(
        tmp_path,
        "folder,class\nt-shirt,T-shirt/top\nlongsleeve,Pullover\noutwear,Coat\npants,Trouser\nshoes,Sneaker\n"
        "hat,\nshorts,\nskirt,\n",
    )
    names = (
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
    )
    mixed = mix(replace(SHAPES, class_names=names), Path(folder, "clothing"), mapping)

    assert mixed.extra is not None
    assert mixed.extra.counts(names)["T-shirt/top"] == 159
    assert (len(mixed.extra.labels), len(mixed.train.labels), mixed.left_out) == (
        527,
        32 + 2394,
        (),
    )
