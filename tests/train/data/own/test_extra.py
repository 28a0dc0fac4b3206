"""A user's own pictures of the same classes: the class of each folder, and the splits."""

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import InvalidDataset, InvalidUsage
from tests.support import pictures
from tests.support.pictures import sort_into_folders
from train.data.datasets import load_dataset
from train.data.own.extra import add_pictures, find_class, read_mapping
from train.data.splits import Split

SHAPES = pictures.shapes()  # across, upright, square
CLASSES = "across, upright, square"


def mapping_file(folder: Path, text: str) -> Path:
    path = folder / "mapping.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_fifth_of_own_pictures_becomes_the_extra_split(tmp_path: Path) -> None:
    sort_into_folders(tmp_path / "mine", {"Upright": 10, "SQUARE": 20})
    mixed = add_pictures(SHAPES, f"folder:{tmp_path / 'mine'}")

    assert mixed.extra is not None
    assert mixed.extra.counts(SHAPES.class_names) == {"across": 0, "upright": 2, "square": 4}
    np.testing.assert_array_equal(mixed.train.images[:32], SHAPES.train.images)
    assert np.bincount(mixed.train.labels[32:]).tolist() == [0, 8, 16]
    assert mixed.train.own.tolist() == [False] * 32 + [True] * 24
    assert (mixed.test.digest(), mixed.validation) == (SHAPES.test.digest(), None)
    assert (mixed.name, mixed.class_names) == (SHAPES.name, SHAPES.class_names)
    assert mixed.source == "not stated; with 30 own pictures from the folder mine"


def test_pictures_are_normalized_to_the_look_of_the_data_set(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, {"upright": 10, "square": 10})
    (tmp_path / "square" / "0.png").write_bytes(pictures.png(np.full((60, 30), 250, np.uint8)))
    as_objects, as_ink = (
        add_pictures(SHAPES, tmp_path),
        add_pictures(replace(SHAPES, look="ink"), tmp_path),
    )

    assert as_objects.train.digest() != as_ink.train.digest()


def test_a_mapping_file_assigns_classes_to_folders(tmp_path: Path) -> None:
    folder = sort_into_folders(
        tmp_path / "mine", {"bars": 10, "lines, flat": 15, "box": 10, "dots": 3, "square": 10}
    )
    mapping = mapping_file(
        tmp_path, '\ufefffolder,class\nbars, across \n"lines, flat",Across\nbox,square\n\ndots,\n'
    )
    mixed = add_pictures(SHAPES, folder, mapping)

    assert mixed.extra is not None
    assert mixed.extra.counts(SHAPES.class_names) == {"across": 5, "upright": 0, "square": 4}
    assert np.bincount(mixed.train.labels[32:]).tolist() == [20, 0, 16]


def test_split_folders_of_own_pictures_are_used(tmp_path: Path) -> None:
    for number, (split, count) in enumerate([("train", 10), ("validation", 3), ("test", 4)]):
        sort_into_folders(tmp_path / split, {"across": count, "square": count}, seed=10 * number)
    alone = add_pictures(SHAPES, tmp_path)
    beside = add_pictures(replace(SHAPES, validation=SHAPES.test), tmp_path)

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
    (tmp_path / "square" / "notes.png").write_text("four corners")
    (tmp_path / "square" / "notes.txt").write_text("four corners")
    dataset = add_pictures(SHAPES, tmp_path)

    assert [item.path for item in dataset.unreadable] == ["square/notes.png"]
    assert dataset.skipped == {"not_a_picture": {".txt": 1}}


@pytest.mark.parametrize(
    ("folders", "mapping", "facts"),
    [
        pytest.param(
            {"across": 10, "circle": 10, "dots": 10},
            None,
            ["{}/mine", "'circle', 'dots'"],
            id="no mapping",
        ),
        pytest.param(
            {"across": 10, "circle": 10, "box": 10},
            "box,square\n",
            ["{}/mine", "'circle'"],
            id="not mapped",
        ),
        pytest.param(
            {"across": 10},
            "folder,class\nacross,sqaure\n",
            ["Line 2", "{}/mapping.csv", "'sqaure'"],
            id="no such class",
        ),
        pytest.param(
            {"across": 10},
            "box,square\nline,across\n",
            ["{}/mine", "{}/mapping.csv", "'box', 'line'"],
            id="no such folder",
        ),
        pytest.param(
            {"box": 10},
            "box,square\nbox,across\n",
            ["Line 2", "{}/mapping.csv", "'box'"],
            id="twice",
        ),
        pytest.param(
            {"box": 10},
            "box;square\n",
            ["Line 1", "{}/mapping.csv", "1 cells", "'box;square'"],
            id="semicolons",
        ),
        pytest.param({"box": 10}, "box,\n", ["{}/mine"], id="all left out"),
    ],
)
def test_folders_without_a_class_are_refused(
    tmp_path: Path, folders: dict[str, int], mapping: str | None, facts: list[str]
) -> None:
    folder = sort_into_folders(tmp_path / "mine", folders)
    with pytest.raises(InvalidDataset) as raised:
        add_pictures(SHAPES, folder, mapping_file(tmp_path, mapping) if mapping else None)

    assert (raised.value.code, raised.value.exit_code) == ("invalid_mapping", 1)
    assert all(
        fact.replace("{}", str(tmp_path)) in raised.value.message for fact in [CLASSES, *facts]
    )


def test_an_unreadable_mapping_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo.csv").write_bytes(b"\xff\xd8\xff\xe0")
    for name, reason in (("photo.csv", "'utf-8' codec"), ("nowhere.csv", "No such file")):
        with pytest.raises(InvalidDataset, match=f"{tmp_path}/{name}.*{reason}") as raised:
            read_mapping(tmp_path / name, SHAPES.class_names)
        assert raised.value.code == "invalid_mapping"


def test_a_mapping_that_is_a_pipe_or_a_device_or_huge_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "huge").write_text("across," * 200_000)
    for name, reason in (
        ("pipe", "Not a regular file"),
        ("device", "Not a regular file"),
        ("huge", "more than 1,048,576 bytes"),
    ):
        with pytest.raises(InvalidDataset, match=f"{tmp_path}/{name}.*{reason}") as raised:
            read_mapping(tmp_path / name, SHAPES.class_names)
        assert raised.value.code == "invalid_mapping"


@pytest.mark.parametrize("text", ["x" * 50_000, "x" * 50_000 + ",y", "a," + "x" * 50_000])
def test_a_long_line_is_cut_in_the_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidDataset, match="Line 1") as raised:
        read_mapping(mapping_file(tmp_path, text), SHAPES.class_names)

    assert len(raised.value.message) < 1000


def test_classes_with_few_pictures_are_refused(tmp_path: Path) -> None:
    folder = sort_into_folders(tmp_path / "mine", {"across": 10, "square": 9})
    with pytest.raises(InvalidDataset, match="'square' has 9") as raised:
        add_pictures(SHAPES, folder)

    assert raised.value.code == "too_few_images"


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidUsage, match="nowhere") as raised:
        add_pictures(SHAPES, tmp_path / "nowhere")

    assert raised.value.code == "folder_not_found"


def test_pictures_cannot_be_added_to_images_too_small_for_a_model(tmp_path: Path) -> None:
    with pytest.raises(InvalidUsage, match=r"'digits-8x8'.* not 8") as raised:
        add_pictures(load_dataset("digits-8x8"), tmp_path)

    assert raised.value.code == "invalid_training"


def test_pictures_get_size_and_colours_of_the_data_set(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (40, 32, 48, 3), dtype=np.uint8)
    split = Split(images, np.arange(40) % 3)
    photos = replace(SHAPES, look="photo", train=split, test=split)
    sort_into_folders(tmp_path, dict.fromkeys(SHAPES.class_names, 10))
    mixed = add_pictures(photos, tmp_path)

    assert mixed.extra is not None
    assert mixed.extra.images.shape == (6, 32, 48, 3)
    assert mixed.train.images.shape == (64, 32, 48, 3)


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


def test_a_name_that_resembles_two_classes_is_unknown() -> None:
    assert find_class("Ab", ("AB", "ab")) is None


def test_phone_photos_are_added_to_fashion_mnist(tmp_path: Path) -> None:
    folder = os.environ.get("LOUPE_TEST_DATA")
    if folder is None or not Path(folder, "clothing").is_dir():
        pytest.skip("LOUPE_TEST_DATA names no folder with clothing/")
    mapping = mapping_file(
        tmp_path,
        "folder,class\nt-shirt,T-shirt/top\nlongsleeve,Pullover\noutwear,Coat\n"
        "pants,Trouser\nshoes,Sneaker\nhat,\nshorts,\nskirt,\n",
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
    mixed = add_pictures(replace(SHAPES, class_names=names), Path(folder, "clothing"), mapping)

    assert mixed.extra is not None
    assert mixed.extra.counts(names)["T-shirt/top"] == 159
    assert (len(mixed.extra.labels), len(mixed.train.labels), mixed.unreadable) == (
        527,
        32 + 2394,
        (),
    )
