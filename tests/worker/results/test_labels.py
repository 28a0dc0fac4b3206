"""True labels from folders and columns, and the agreement of a model with them."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix

from loupe.jobs import ScoringOptions
from worker.results.labels import agreement, true_labels

CLASSES = ("boot", "bag", "7")


def test_folders_are_the_labels_of_their_files() -> None:
    ids = ["boot/1.png", "a/b/bag/é.png", "1.png", "a.tar/boot/x.png"]
    found = true_labels(ids, None, CLASSES, ScoringOptions(labels="folder"))

    assert found.to_pylist() == ["boot", "bag", None, "boot"]
    assert found.type == pa.string()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["bag", "boot", None, ""], ["bag", "boot", None, None]),
        (
            [0, 1, 2, 3, None],
            ["boot", "bag", "7", "3", None],
        ),  # class indexes, and one that is too large
        (["0", "7", "sock"], ["boot", "7", "sock"]),  # a class has the name 7
        ([7], ["7"]),
        (["1.0", "7.0", "8.0"], ["bag", "7", "8"]),  # pandas writes them so if some are missing
    ],
)
def test_column_holds_class_names_or_indexes(
    values: Sequence[object], expected: list[str | None]
) -> None:
    ids = [str(place) for place in range(len(values))]
    columns = pa.table({"x": pa.array(values)})

    assert (
        true_labels(ids, columns, CLASSES, ScoringOptions(labels="column:x")).to_pylist()
        == expected
    )


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1))
def test_accuracy_and_confusion_matrix_match_scikit_learn(places: list[tuple[int, int]]) -> None:
    true, given_ = zip(*places, strict=True)
    found = agreement(Counter((CLASSES[a], CLASSES[b]) for a, b in places), CLASSES)

    assert found["accuracy"] == pytest.approx(accuracy_score(true, given_))
    np.testing.assert_array_equal(
        found["confusion_matrix"], confusion_matrix(true, given_, labels=range(3))
    )
    assert found["labelled"] == len(places)


def test_rows_without_a_label_or_with_an_unknown_one_do_not_count() -> None:
    pairs = Counter(
        {(None, "bag"): 3, ("sock", "bag"): 2, ("bag", None): 1, ("bag", "bag"): 1, ("7", "bag"): 1}
    )

    assert agreement(pairs, CLASSES) == {
        "labelled": 2,
        "accuracy": 0.5,
        "confusion_matrix": [[0, 0, 0], [0, 1, 0], [0, 1, 0]],
    }
    assert agreement(Counter({(None, "bag"): 3}), CLASSES)["accuracy"] is None
