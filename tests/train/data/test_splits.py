"""Splits: dividing, holding out, joining, and checks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import InvalidDataset, InvalidUsage
from tests.support import pictures
from train.config import TrainConfig, recipe
from train.data.datasets import load_dataset
from train.data.splits import SAMPLE_SIZE, Dataset, Split, check_classes, check_counts, hold_out

TINY = recipe("softmax", epochs=1)


def numbered(counts: list[int]) -> Split:
    """Return images whose first two pixels hold their number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.zeros((len(labels), 2, 2), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(len(labels)) // 256, np.arange(len(labels)) % 256
    return Split(images, labels.astype(np.int64))


def numbers(split: Split) -> list[int]:
    return [int(image[0, 0]) * 256 + int(image[0, 1]) for image in split.images]


@given(
    counts=st.lists(st.integers(10, 40), min_size=2, max_size=6),
    fraction=st.floats(0.15, 0.85),
    seed=st.integers(0, 9),
)
def test_dividing_keeps_every_image_and_the_fraction_of_each_class(
    counts: list[int], fraction: float, seed: int
) -> None:
    split = numbered(counts)
    rest, part = split.divide(fraction, seed)

    assert sorted(numbers(rest) + numbers(part)) == numbers(split)
    for label, count in enumerate(counts):
        assert abs((part.labels == label).sum() - fraction * count) <= 1
    for side in (rest, part):
        assert [split.labels[number] for number in numbers(side)] == side.labels.tolist()


def test_the_seed_determines_how_a_split_is_divided() -> None:
    split = numbered([20, 20])

    assert split.divide(0.2, 1)[1].digest() == split.divide(0.2, 1)[1].digest()
    assert split.divide(0.2, 1)[1].digest() != split.divide(0.2, 2)[1].digest()


def test_a_class_too_small_to_divide_is_refused() -> None:
    with pytest.raises(InvalidUsage, match=r"0\.1 of 102 images in 2 classes") as raised:
        numbered([100, 2]).divide(0.1, 0)

    assert raised.value.code == "impossible_fraction"


def test_shuffling_keeps_images_and_labels_together() -> None:
    split = numbered([10, 10])
    shuffled = split.shuffle(3)

    assert numbers(shuffled) != numbers(split)
    assert sorted(numbers(shuffled)) == numbers(split)
    assert [split.labels[number] for number in numbers(shuffled)] == shuffled.labels.tolist()


def test_two_splits_are_concatenated_in_order() -> None:
    joined = numbered([2, 1]).concatenate(numbered([1, 2]))

    assert joined.labels.tolist() == [0, 0, 1, 0, 1, 1]
    assert joined.images.shape == (6, 2, 2)


def test_classes_without_images_are_counted_too() -> None:
    assert numbered([2, 0, 3]).counts(("a", "b", "c", "d")) == {"a": 2, "b": 0, "c": 3, "d": 0}


def test_only_existing_splits_are_listed() -> None:
    shapes = pictures.shapes()
    whole = Dataset(
        "shapes",
        shapes.class_names,
        "object",
        shapes.train,
        shapes.test,
        validation=shapes.test,
        extra=shapes.test,
    )

    assert list(shapes.splits()) == ["train", "test"]
    assert list(whole.splits()) == ["train", "validation", "test", "extra"]


@pytest.mark.parametrize("class_names", [(), ("cat",)], ids=["none", "one"])
def test_fewer_than_two_classes_are_refused(class_names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidDataset, match="here") as raised:
        check_classes("here", class_names)

    assert raised.value.code == "one_class"
    assert all(name in raised.value.message for name in class_names)


@pytest.mark.parametrize(
    ("counts", "code", "facts"),
    [
        pytest.param(
            {"train": {"cat": 20, "dog": 20}, "test": {}},
            "empty_split",
            ["test split"],
            id="empty split",
        ),
        pytest.param(
            {"train": {"cat": 20, "dog": 20, "eel": 9}, "test": {"cat": 20, "cow": 1}},
            "classes_differ",
            ["test split", "'dog', 'eel'", "'cow'"],
            id="other classes",
        ),
        pytest.param(
            {"train": {"cat": 20, "dog": 9, "eel": 0}},
            "too_few_images",
            ["at least 10", "'dog' has 9", "'eel' has 0"],
            id="too few",
        ),
    ],
)
def test_splits_that_cannot_be_trained_on_are_refused(
    counts: dict[str, dict[str, int]], code: str, facts: list[str]
) -> None:
    with pytest.raises(InvalidDataset, match="'here'") as raised:
        check_counts("here", counts)

    assert (raised.value.code, raised.value.exit_code) == (code, 1)
    assert all(fact in raised.value.message for fact in facts)


def test_an_error_lists_only_the_first_of_many_classes() -> None:
    with pytest.raises(InvalidDataset, match=r"'0' has 1, .* and 9,990 more") as raised:
        check_counts("here", {"train": {str(number): 1 for number in range(10_000)}})

    assert len(raised.value.message) < 500


def test_splits_that_can_be_trained_on_pass() -> None:
    check_counts(
        "here",
        {
            "train": {"cat": 9, "dog": 8},
            "validation": {"dog": 1, "cat": 1},
            "test": {"cat": 1, "dog": 1},
        },
    )


def test_a_sample_is_limited_and_determined_by_the_seed() -> None:
    few = Split(np.zeros((3, 2, 2), np.uint8), np.arange(3))
    many = Split(np.zeros((SAMPLE_SIZE + 5, 1, 1), np.uint8), np.arange(SAMPLE_SIZE + 5))

    assert few.sample(0) is few
    assert len(set(many.sample(1).labels.tolist())) == SAMPLE_SIZE
    assert many.sample(1).digest() == many.sample(1).digest() != many.sample(2).digest()


def held(dataset: Dataset, config: TrainConfig) -> Split:
    split = hold_out(dataset, config).validation
    assert split is not None
    return split


def test_the_validation_split_has_the_same_fraction_of_each_class() -> None:
    digits = load_dataset("digits")
    split = hold_out(digits, replace(TINY, validation_fraction=0.2))

    assert split.validation is not None
    assert len(split.train.labels) + len(split.validation.labels) == len(digits.train.labels)
    shares = np.bincount(split.validation.labels) / np.bincount(digits.train.labels)
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


@pytest.mark.parametrize("fraction", [0.993, 0.9999])
def test_a_validation_split_that_leaves_nothing_to_train_on_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidUsage) as raised:
        hold_out(load_dataset("digits"), replace(TINY, validation_fraction=fraction))

    assert raised.value.code == "impossible_fraction"
    assert f"{fraction:g}" in raised.value.message


def test_the_seed_determines_the_validation_split() -> None:
    digits = load_dataset("digits")

    assert held(digits, TINY).digest() == held(digits, TINY).digest()
    assert held(digits, TINY).digest() != held(digits, replace(TINY, seed=1)).digest()


def test_the_validation_split_of_a_data_set_is_kept() -> None:
    shapes = pictures.shapes()

    assert held(replace(shapes, validation=shapes.test), TINY) is shapes.test


def test_a_class_of_one_image_can_still_be_trained_on() -> None:
    shapes = pictures.shapes()
    labels = np.array([2] + [0, 1] * 15 + [0], np.int64)

    assert len(held(replace(shapes, train=Split(shapes.train.images, labels)), TINY).labels) == 3
