"""Options of scoring jobs: one set of rules for every program."""

import pytest

from loupe.errors import InvalidRequest
from loupe.jobs import PRIORITIES, ScoringOptions, check_options


@pytest.mark.parametrize("labels", ["", "folders", "column", "column:", 7])
def test_labels_must_be_a_folder_or_a_column(labels: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_options(ScoringOptions, labels=labels)

    assert (raised.value.code, raised.value.status) == ("invalid_request", 400)
    assert f"'labels' cannot be {labels!r}" in raised.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_k", 0), ("top_k", "2"), ("threshold", 1.5), ("format", "xml"), ("single", 1)],
)
def test_values_out_of_range_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        check_options(ScoringOptions, **{name: value})

    assert repr(value) in raised.value.message
    assert name in raised.value.message


def test_columns_that_are_read_are_those_to_keep_and_that_of_labels() -> None:
    options = ScoringOptions(labels="column:class", keep=("shop", "class", "shop"))

    assert options.label_column == "class"
    assert options.columns == ("shop", "class")
    assert ScoringOptions(labels="folder").label_column is None


def test_options_survive_json() -> None:
    options = ScoringOptions(threshold=0.5, keep=("shop",), format="csv")

    assert ScoringOptions.model_validate_json(options.model_dump_json()) == options


def test_highest_priority_comes_first() -> None:
    assert PRIORITIES == ("high", "normal", "low")
