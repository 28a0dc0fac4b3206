"""Checks of data sets: wrong labels, repeats, blank and odd images, and their correction."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import InvalidDataset
from tests.support.command import Loupe
from train.data.check.findings import Check, check_images, sheet, table
from train.data.datasets import Dataset, load_dataset
from train.data.relabel import relabelled

WRONG = range(0, 600, 60)  # rows of the training split


@pytest.fixture(scope="module")
def spoilt() -> Dataset:
    """Return digits with ten wrong labels, two repeats, a blank and two odd images."""
    dataset = load_dataset("digits")
    images, labels = dataset.train.images.copy(), dataset.train.labels.copy()
    labels[WRONG] = (labels[WRONG] + 4) % 10
    images[701], labels[701] = images[700], labels[700]
    images[703], labels[703] = np.clip(images[702], 3, 252), labels[702]
    images[704] = 0
    images[705] = 255 - images[705]
    images[706] = np.random.default_rng(0).integers(0, 256, images[706].shape)
    return replace(dataset, train=replace(dataset.train, images=images, labels=labels))


@pytest.fixture(scope="module")
def check(spoilt: Dataset) -> Check:
    return check_images(spoilt)


def rows(check: Check, problem: str) -> list[int]:
    """Return the rows of the training split with a problem."""
    of_train = [each for each in check.findings if each.split == "train"]
    return [
        int(each.image.removeprefix("image ").replace(",", "")) - 1
        for each in of_train
        if each.problem == problem
    ]


def test_wrong_labels_come_first_with_the_right_class(spoilt: Dataset, check: Check) -> None:
    found = [each for each in check.findings if each.problem == "label" and each.split == "train"]
    suspected = rows(check, "label")

    assert len(set(suspected) & set(WRONG)) >= 8
    assert len(suspected) <= 30
    for row, finding in zip(suspected, found, strict=True):
        if row in WRONG:
            assert finding.was == spoilt.class_names[spoilt.train.labels[row]]
            assert finding.label == spoilt.class_names[(spoilt.train.labels[row] - 4) % 10]


def test_repeats_blank_and_odd_images_are_found(check: Check) -> None:
    assert {701, 703} <= set(rows(check, "repeat"))
    assert rows(check, "blank") == [704]
    assert {705, 706} <= set(rows(check, "odd"))
    assert check.agreement > 0.95


def test_labels_are_not_suspected_where_neighbours_disagree(spoilt: Dataset) -> None:
    random = np.random.default_rng(0).integers(0, 10, len(spoilt.train.labels))
    check = check_images(replace(spoilt, train=replace(spoilt.train, labels=random)))

    assert check.agreement < 0.5
    assert not [each for each in check.findings if each.problem == "label"]


def test_clean_data_has_few_findings() -> None:
    dataset = load_dataset("digits")
    check = check_images(dataset)

    assert len(check.findings) < 0.02 * len(dataset.train.labels)


def test_the_sheet_shows_findings_of_every_problem(spoilt: Dataset, check: Check) -> None:
    drawn = Image.open(io.BytesIO(sheet(spoilt, check.findings).png()))
    nothing = Image.open(io.BytesIO(sheet(spoilt, []).png()))

    assert drawn.mode == "RGB"
    assert drawn.height > nothing.height


def test_the_table_corrects_labels_and_leaves_images_out(
    spoilt: Dataset, check: Check, tmp_path: Path
) -> None:
    (tmp_path / "check.csv").write_text(table(check.findings))
    corrected = relabelled(spoilt, tmp_path / "check.csv")
    left_out = {*rows(check, "repeat"), *rows(check, "blank")}

    assert len(corrected.train.labels) == len(spoilt.train.labels) - len(left_out)
    right = load_dataset("digits").train.labels
    kept = [row for row in range(len(right)) if row not in left_out]
    assert (corrected.train.labels != right[kept]).sum() < (spoilt.train.labels != right).sum()
    assert not (corrected.train.images == 0).all(axis=(1, 2)).any()


def test_own_tables_need_only_image_and_label(spoilt: Dataset, tmp_path: Path) -> None:
    names = np.array([f"{row}.png" for row in range(len(spoilt.train.labels))])
    named = replace(spoilt, train=replace(spoilt.train, names=names))
    (tmp_path / "own.csv").write_text("label,image\n7,3.png\n,4.png\n")
    corrected = relabelled(named, tmp_path / "own.csv")

    assert corrected.train.labels[3] == 7
    assert "4.png" not in corrected.train.names
    assert corrected.test is not spoilt.test
    np.testing.assert_array_equal(corrected.test.labels, spoilt.test.labels)


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("image,was\nimage 1,3\n", "'label'"),
        ("split,image,label\ntrain,image 99999,3\n", "'image 99999'"),
        ("split,image,label\ntrain,image 1,ten\n", "'ten'"),
        ("image,label\nimage 1,3\n", "split"),
        (b"\xff\xfe", "CSV"),
    ],
    ids=["no column", "unknown image", "unknown class", "two splits", "not a table"],
)
def test_wrong_tables_are_refused(
    spoilt: Dataset, tmp_path: Path, text: str | bytes, fact: str
) -> None:
    (tmp_path / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(InvalidDataset, match=fact) as caught:
        relabelled(spoilt, tmp_path / "x.csv")
    assert caught.value.code == "invalid_relabelling"


def test_command_writes_a_table_and_a_sheet(loupe: Loupe, tmp_path: Path) -> None:
    digits = load_dataset("digits")
    images = np.concatenate([digits.train.images[:500], digits.train.images[:1]])
    labels = np.concatenate([digits.train.labels[:500], digits.train.labels[:1]])
    np.savez(tmp_path / "digits.npz", x_train=images, y_train=labels)
    name = f"npz:{tmp_path}/digits.npz"
    ended = loupe("data", "check", name, "--look", "ink", "--out", tmp_path / "digits.csv")
    findings = list(csv.DictReader((tmp_path / "digits.csv").read_text().splitlines()))

    assert ended.code == 0
    assert "--relabel" in ended.out
    assert [each["label"] for each in findings if each["problem"] == "repeat"] == ["", ""]
    with Image.open(tmp_path / "digits.png") as drawn:
        assert drawn.format == "PNG"
