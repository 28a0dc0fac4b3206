"""Images of the training split that are in other splits, too."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import pictures
from tests.support.command import Loupe
from train.data.datasets import load_dataset
from train.data.repeats import find_repeats
from train.data.splits import Dataset, Split


def dataset(test: Split) -> Dataset:
    """Return a data set whose training images are 40 digits of two classes."""
    train = Split(pictures.digits(40), np.array([0, 1] * 20))
    return Dataset("own", ("a", "b"), "ink", train=train, test=test)


def test_images_of_two_splits_are_found_with_their_labels() -> None:
    others = pictures.digits(10, seed=1)
    others[3] = pictures.digits(40)[7]
    others[5] = np.clip(pictures.digits(40)[8].astype(int) + 2, 0, 255)
    found = find_repeats(dataset(Split(others, np.array([1] * 10))))

    assert [(each.name, each.training_name) for each in found] == [
        ("image 4", "image 8"),
        ("image 6", "image 9"),
    ]
    assert [(each.identical, each.same_label) for each in found] == [(True, True), (False, False)]
    assert {each.split for each in found} == {"test"}


def test_different_images_are_not_repeats() -> None:
    digits = load_dataset("digits")

    assert len(find_repeats(digits)) <= 2


def test_validation_images_are_compared_too() -> None:
    train = pictures.digits(40)
    both = replace(
        dataset(Split(pictures.digits(10, seed=1), np.array([0] * 10))),
        validation=Split(train[:2], np.array([0, 1])),
    )

    assert {each.split for each in find_repeats(both)} == {"validation"}


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_files_in_two_splits_and_colours_are_named_before_a_training(
    loupe: Loupe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "own" / split / name).mkdir(parents=True)
            for number in range(10):
                colours = rng.integers(0, 255, (4, 4, 3), np.uint8)
                path = tmp_path / "own" / split / name / f"{number}.png"
                Image.fromarray(colours).resize((40, 40), Image.Resampling.NEAREST).save(path)
    repeated = Image.open(tmp_path / "own/train/cat/3.png")
    (tmp_path / "own/test/dog/4.png").unlink()
    repeated.save(tmp_path / f"own/test/dog/again.{suffix}", quality=95)

    shown = loupe("data", "show", "folder:own")

    words = " ".join((shown.out + shown.err).split())
    assert shown.code == 0
    assert "1 of 20 test images" in words
    assert f"test/dog/again.{suffix} = train/cat/3.png, with another label" in words
    assert "100% of the pictures have colours" in words
