"""Folders of pictures: classes, splits, and folders that cannot be used."""

import os
import re
from pathlib import Path

import bentoml
import numpy as np
import pytest

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.images.spec import ImageSpec
from tests.support import pictures
from tests.support.files import odd_folder
from tests.support.pictures import sort_into_folders
from train.data.own.folders import load_folder, natural_order, slug
from train.data.splits import Dataset

CLASSES = {"dog": 20, "cat": 10}


def load(folder: Path, test_fraction: float | None = None) -> Dataset:
    return load_folder(folder, ImageSpec("ink"), test_fraction)


def test_folders_are_classes_and_a_fifth_of_each_becomes_the_test_split(tmp_path: Path) -> None:
    dataset = load(sort_into_folders(tmp_path / "My Pets", CLASSES))

    assert (dataset.name, dataset.class_names, dataset.look) == ("my-pets", ("cat", "dog"), "ink")
    assert dataset.test.counts(dataset.class_names) == {"cat": 2, "dog": 4}
    assert dataset.train.counts(dataset.class_names) == {"cat": 8, "dog": 16}
    assert (dataset.train.images.dtype, dataset.train.labels.dtype) == (
        np.dtype(np.uint8),
        np.dtype(np.int64),
    )
    assert (dataset.validation, dataset.unreadable) == (None, ())
    assert dataset.source == "own pictures from the folder My Pets"


def test_labels_are_those_of_the_folders(tmp_path: Path) -> None:
    dataset = load(sort_into_folders(tmp_path, CLASSES))
    dogs = {image.tobytes() for image in pictures.digits(20, seed=0)}

    for split in (dataset.train, dataset.test):
        assert [image.tobytes() in dogs for image in split.images] == (split.labels == 1).tolist()


def test_the_same_folder_is_always_split_the_same_way(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, CLASSES)

    assert load(tmp_path).train.digest() == load(tmp_path).train.digest()
    assert load(tmp_path, 0.4).test.counts(("cat", "dog")) == {"cat": 4, "dog": 8}


def test_classes_may_have_names_of_signs(tmp_path: Path) -> None:
    signs = {"=1+1": 10, "<b>": 10, "[red]": 10}

    assert set(load(sort_into_folders(tmp_path, signs)).class_names) == signs.keys()


def test_the_source_is_one_line_whatever_the_folder_is_called(tmp_path: Path) -> None:
    dataset = load(sort_into_folders(tmp_path / "my\x1b[31m\npets", CLASSES))

    assert dataset.source == r"own pictures from the folder my\u001b[31m\npets"


def test_classes_are_in_natural_order(tmp_path: Path) -> None:
    dataset = load(sort_into_folders(tmp_path, {str(number): 10 for number in (10, 9, 2, 0, 1)}))

    assert dataset.class_names == ("0", "1", "2", "9", "10")
    assert sorted(["b2", "B10", "a", "b1"], key=natural_order) == ["a", "b1", "b2", "B10"]
    assert sorted(["9", "0", "-1", "-10"], key=natural_order) == ["-10", "-1", "0", "9"]


def test_split_folders_become_splits(tmp_path: Path) -> None:
    for number, (split, counts) in enumerate(
        [("train", CLASSES), ("validation", {"cat": 3, "dog": 2}), ("test", {"cat": 1, "dog": 4})]
    ):
        sort_into_folders(tmp_path / split, counts, seed=10 * number)
    (tmp_path / "LICENSE").write_text("anyone may")
    (tmp_path / "train" / "labels.csv").write_text("a table next to the classes")
    dataset = load(tmp_path)

    assert {
        name: split.counts(dataset.class_names) for name, split in dataset.splits().items()
    } == {
        "train": {"cat": 10, "dog": 20},
        "validation": {"cat": 3, "dog": 2},
        "test": {"cat": 1, "dog": 4},
    }
    assert np.abs(np.diff(dataset.train.labels)).sum() > 2  # not class after class
    with pytest.raises(InvalidUsage, match="test fraction") as raised:
        load(tmp_path, test_fraction=0.3)
    assert raised.value.code == "invalid_dataset_option"


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("training_set", "validation_set", "test_set"),
        ("training", "dev", "testing"),
        ("trainset", "valset", "testset"),
        ("train_images", "val-data", "Test Set"),
        ("archive/train", "archive/val", "archive/test"),
        ("archive/photos/train", "archive/photos/valid", "archive/photos/test"),
        ("training_set/training_set", "val/val", "test_set/test_set"),
        ("train/images", "val/images", "test/images"),
    ],
)
def test_usual_names_of_splits_are_known(
    tmp_path: Path, train: str, validation: str, test: str
) -> None:
    for folder, counts in (
        (train, CLASSES),
        (validation, {"cat": 3, "dog": 2}),
        (test, {"cat": 1, "dog": 4}),
        ("__MACOSX", {}),
    ):
        sort_into_folders(tmp_path / folder, counts)
    (tmp_path / "__MACOSX" / "train").mkdir(parents=True)
    dataset = load(tmp_path)

    assert dataset.class_names == ("cat", "dog")
    assert {name: len(split.labels) for name, split in dataset.splits().items()} == {
        "train": 30,
        "validation": 5,
        "test": 5,
    }


def test_classes_are_found_in_the_only_folder_of_an_archive(tmp_path: Path) -> None:
    sort_into_folders(tmp_path / "pets" / "archive" / "photos", CLASSES)
    dataset = load(tmp_path / "pets")

    assert (dataset.name, dataset.class_names) == ("pets", ("cat", "dog"))


def test_a_train_folder_alone_is_split(tmp_path: Path) -> None:
    sort_into_folders(tmp_path / "train", CLASSES)

    assert load(tmp_path).class_names == ("cat", "dog")
    assert len(load(tmp_path).test.labels) == 6


def test_classes_may_hold_folders_with_one_common_name(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, {"cat/images": 10, "dog/images": 10})

    assert load(tmp_path).class_names == ("cat", "dog")


def test_without_a_test_folder_the_test_split_comes_from_train(tmp_path: Path) -> None:
    sort_into_folders(tmp_path / "train", CLASSES)
    sort_into_folders(tmp_path / "validation", {"cat": 3, "dog": 2}, seed=10)
    dataset = load(tmp_path)

    assert {name: len(split.labels) for name, split in dataset.splits().items()} == {
        "train": 24,
        "validation": 5,
        "test": 6,
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load(sort_into_folders(tmp_path, {"train": 10, "bus": 10})).class_names == (
        "bus",
        "train",
    )


def test_hidden_files_are_ignored_and_subfolders_of_a_class_are_read(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, CLASSES)
    sort_into_folders(tmp_path / "cat", {"2024": 5}, seed=10)
    sort_into_folders(tmp_path, {".git": 5}, seed=20)
    sort_into_folders(tmp_path / "cat", {".thumbnails": 5}, seed=30)
    (tmp_path / "cat" / "._0.png").write_text("what macOS leaves behind")
    dataset = load(tmp_path)

    assert (dataset.class_names, dataset.unreadable) == (("cat", "dog"), ())
    assert len(dataset.train.labels) + len(dataset.test.labels) == 35


def test_unreadable_files_are_listed_and_left_out(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, CLASSES)
    (tmp_path / "cat" / "3.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "dog" / "notes.png").write_text("all good dogs")
    dataset = load(tmp_path)

    assert [item.path for item in dataset.unreadable] == ["cat/3.heic", "dog/notes.png"]
    assert "text starting 'all good dogs'" in dataset.unreadable[1].reason
    assert len(dataset.train.labels) + len(dataset.test.labels) == 30


def test_a_class_with_too_few_readable_pictures_is_refused(
    tmp_path: Path,
) -> None:
    sort_into_folders(tmp_path, CLASSES)
    (tmp_path / "cat" / "0.png").write_text("broken")
    with pytest.raises(InvalidDataset, match=f"{tmp_path}.* at least 10 .*'cat' has 9") as raised:
        load(tmp_path)

    assert raised.value.code == "too_few_images"


def test_folders_without_files_are_no_classes(tmp_path: Path) -> None:
    splits = [f"{split}/{name}" for split in ("train", "test") for name in CLASSES]
    sort_into_folders(tmp_path, dict.fromkeys(splits, 20))
    (tmp_path / "train" / "bird" / "nest").mkdir(parents=True)
    (tmp_path / "models").mkdir()
    (tmp_path / "train" / "bird" / ".DS_Store").touch()

    assert load(tmp_path).class_names == tuple(sorted(CLASSES))


def test_class_without_a_picture_among_its_files_is_refused(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, CLASSES)
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird" / "notes.txt").write_text("none yet")
    with pytest.raises(InvalidDataset, match="'bird' has 0") as raised:
        load(tmp_path)

    assert raised.value.code == "too_few_images"


@pytest.mark.parametrize(
    ("folders", "code", "facts"),
    [
        pytest.param({}, "one_class", ["no class"], id="empty folder"),
        pytest.param({"cat": 20}, "one_class", ["'cat'"], id="one class"),
        pytest.param({"cat": 20, "dog": 0}, "one_class", ["'cat'"], id="one class, one empty"),
        pytest.param({"cat": 0, "dog": 0}, "empty_split", ["train split"], id="no pictures"),
        pytest.param(
            {"train/cat": 20, "train/dog": 20, "test/cat": 0, "test/dog": 0},
            "empty_split",
            ["test split"],
            id="empty test split",
        ),
        pytest.param(
            {"test/cat": 20, "test/dog": 20}, "empty_split", ["train split"], id="no train split"
        ),
        pytest.param(
            {"train/cat": 20, "train/dog": 20, "validation/cat": 2, "validation/cow": 2},
            "classes_differ",
            ["validation split", "'dog'", "'cow'"],
            id="other classes",
        ),
        pytest.param(
            {"train/cat": 20, "train/dog": 20, "val/cat": 2, "dev/cat": 2},
            "unknown_split",
            ["validation/"],
            id="two validation splits",
        ),
        pytest.param(
            {"train/cat": 20, "train/dog": 20, "fold2/cat": 2, "fold2/dog": 2},
            "unknown_split",
            ["fold2/"],
            id="a split of another name",
        ),
        pytest.param(
            {"fold1/cat": 20, "fold1/dog": 20, "fold2/Cat": 20, "fold2/dog": 20},
            "unknown_split",
            ["fold1/", "fold2/", "'cat'", "'dog'"],
            id="splits of other names",
        ),
        pytest.param(
            {"a/cat": 20, "a/dog": 20, "a/cow": 20, "b/cat": 20, "b/dog": 20, "c": 20},
            "unknown_split",
            ["a/", "b/"],
            id="splits of other names without a class, beside pictures",
        ),
        pytest.param(
            {
                "seg_train/seg_train/sea": 20,
                "seg_train/seg_train/ice": 20,
                "seg_test/seg_test/sea": 5,
                "seg_test/seg_test/ice": 5,
                "seg_pred/seg_pred": 5,
            },
            "unknown_split",
            ["seg_train/", "seg_test/"],
            id="splits in folders of their own name",
        ),
        pytest.param(
            {"cat/train": 20, "cat/test": 20, "dog/train": 20, "dog/test": 20},
            "unknown_split",
            ["cat/", "dog/"],
            id="splits inside classes",
        ),
        pytest.param(
            {"train/Cat": 20, "train/dog": 20, "test/cat": 2, "test/dog": 2},
            "classes_differ",
            ["test split", "'Cat'", "'cat'"],
            id="a class in another case",
        ),
        pytest.param(
            {"cat": 20, "dog\nor cat": 20}, "invalid_class_names", ["U+000A"], id="line break"
        ),
        pytest.param(
            {"cat": 20, "\x1b[2Jdog": 20}, "invalid_class_names", ["U+001B"], id="control sequence"
        ),
    ],
)
def test_folders_that_cannot_be_trained_on_are_refused(
    tmp_path: Path, folders: dict[str, int], code: str, facts: list[str]
) -> None:
    sort_into_folders(tmp_path, folders)
    with pytest.raises(InvalidDataset) as raised:
        load(tmp_path)

    assert (raised.value.code, raised.value.exit_code) == (code, 1)
    assert all(fact in raised.value.message for fact in [str(tmp_path), *facts])


def test_every_file_is_trained_on_or_counted(tmp_path: Path) -> None:
    sort_into_folders(tmp_path / "pets", CLASSES)
    expected = odd_folder.write(tmp_path / "pets" / "cat", beside=tmp_path / "beside")
    (tmp_path / "pets" / "stray.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    sort_into_folders(tmp_path, {"elsewhere/bird": 10})
    (tmp_path / "pets" / "bird").symlink_to(tmp_path / "elsewhere" / "bird")
    dataset = load(tmp_path / "pets")

    assert dataset.class_names == ("bird", "cat", "dog")
    assert len(dataset.train.labels) + len(dataset.test.labels) == 40 + len(expected.read)
    assert {item.path for item in dataset.unreadable} == {f"cat/{name}" for name in expected.failed}
    assert dataset.skipped == {**expected.skipped, "no_class": {".png": 1}}


def test_pictures_without_suffix_make_a_folder_a_class(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        sort_into_folders(tmp_path, {name: 10, f"{name}/below": 1})
        for file in (tmp_path / name).glob("*.png"):
            file.rename(file.with_suffix(""))

    assert load(tmp_path).class_names == ("bus", "train")


def test_links_to_themselves_and_pipes_are_counted(tmp_path: Path) -> None:
    sort_into_folders(tmp_path, CLASSES)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "cat" / "loop.png").symlink_to(tmp_path / "cat" / "loop.png")
    (tmp_path / "dog" / "device.png").symlink_to("/dev/zero")
    (tmp_path / "dog" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    dataset = load(tmp_path)

    assert dataset.unreadable == ()
    assert dataset.skipped == {
        "broken_link": {"none": 1, ".png": 2},
        "not_a_file": {".png": 2},
        "link_loop": {"none": 1},
    }
    assert len(dataset.train.labels) + len(dataset.test.labels) == 30


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_a_missing_folder_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidUsage, match=str(tmp_path / name)) as raised:
        load(tmp_path / name)

    assert (raised.value.code, raised.value.exit_code) == ("folder_not_found", 2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clothing", "clothing"),
        ("My Pets (2024)!", "my-pets-2024"),
        ("服", "pictures"),
        ("...", "pictures"),
        ("_x_", "x"),
        ("a" * 200, "a" * 50),
        ("a" * 49 + "-b", "a" * 49),
    ],
)
def test_the_folder_name_becomes_a_valid_model_name(name: str, expected: str) -> None:
    assert slug(name) == expected
    assert bentoml.Tag(slug(name)).name == expected
    assert re.fullmatch("[a-z0-9]([-._a-z0-9]*[a-z0-9])?", slug(name))


@pytest.mark.parametrize(
    ("linked", "target"),
    [
        pytest.param("train/b", "train/a", id="of a class"),
        pytest.param("train/b", "train/a/sub", id="in a class"),
        pytest.param("test/a", "train/a", id="of another split"),
    ],
)
def test_classes_that_links_make_one_folder_are_refused(
    tmp_path: Path, linked: str, target: str
) -> None:
    """Two classes would share their pictures, or a test split would hold what is learnt."""
    sort_into_folders(tmp_path / "train", {"a": 12, "c": 12})
    sort_into_folders(tmp_path / "test", {"c": 12}, seed=3)
    (tmp_path / "train" / "a" / "sub").mkdir()
    (tmp_path / linked).symlink_to(tmp_path / target)
    with pytest.raises(InvalidDataset) as raised:
        load(tmp_path)

    assert raised.value.code == "repeated_folder"
    assert linked in raised.value.message
