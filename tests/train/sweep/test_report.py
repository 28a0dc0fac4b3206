"""Tables, `summary.csv` and pictures of a sweep."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from PIL import Image

from loupe.errors import NotWritable
from tests.support.sweeps import failure, result, sweep
from train.sweep.report import MAX_ROWS, print_one_at_a_time, print_ranking, write_report
from train.sweep.sweeps import Result, Sweep, summarize

REQUEST = sweep(learning_rate=(0.01, 0.1, 0.001), hidden=((32, 16), (8,)), epochs=(10,))


Printed: TypeAlias = Callable[..., list[list[str]]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Printed:
    """Return a function that prints a report, and returns the words of each line."""

    def words(show: Callable[..., None], *arguments: object, width: int = 160) -> list[list[str]]:
        monkeypatch.setenv("COLUMNS", str(width))
        show(*arguments)
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    return words


def results(request: Sweep, validation: float | None = 0.5) -> list[Result]:
    return [
        result(setting, seed, validation=validation, test=0.5 + number / 100 + seed / 10)
        for number, setting in enumerate(request.settings())
        for seed in range(2)
    ]


def test_report_has_a_summary_and_a_chart_per_varied_parameter(tmp_path: Path) -> None:
    written = write_report(tmp_path, REQUEST, [*results(REQUEST), failure(REQUEST.base, 2)])

    assert [path.name for path in written] == ["summary.csv", "learning_rate.png", "hidden.png"]
    for picture in written[1:]:
        with Image.open(picture) as image:
            assert image.format == "PNG"
            assert min(image.size) > 400
    with written[0].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert (
        rows[-1]["learning_rate"],
        rows[-1]["hidden"],
        rows[-1]["runs"],
        rows[-1]["failed"],
    ) == (
        "0.01",
        "32-16",
        "3",
        "1",
    )
    assert rows[-1]["test_accuracy_mean"] == "0.550000"
    assert rows[-1]["test_accuracy_deviation"] == "0.070711"


def test_values_without_scores_leave_their_place_empty(tmp_path: Path) -> None:
    request = sweep(optimizer=("sgd", "adam"))
    sgd, adam = request.settings()

    assert len(write_report(tmp_path, request, [result(sgd), failure(adam)])) == 2
    assert len(write_report(tmp_path, request, [failure(sgd), failure(adam)])) == 2


def test_ranking_names_its_order_and_the_varied_values(printed: Printed) -> None:
    lines = printed(print_ranking, REQUEST, summarize(REQUEST, results(REQUEST)))

    assert lines[0][:4] == ["best", "validation", "accuracy", "first,"]
    means = ["0.9000", "±", "0.0000", "0.5000", "±", "0.0000", "0.5500", "±", "0.0707"]
    assert ["0.01", "32-16", *means] in [line[:11] for line in lines]


def test_three_varied_parameters_fit_a_terminal_of_80_columns(printed: Printed) -> None:
    request = sweep(learning_rate=(0.005, 0.01), epochs=(101, 2001), optimizer=("adadelta", "sgd"))
    lines = printed(print_ranking, request, summarize(request, results(request)), width=80)

    assert ["0.005", "2001", "adadelta", "0.5000", "±"] in [line[:5] for line in lines]
    assert max(len(" ".join(line)) for line in lines) <= 80


def test_ranking_without_validation_is_by_test_accuracy(printed: Printed) -> None:
    summaries = summarize(REQUEST, results(REQUEST, validation=None))
    lines = printed(print_ranking, REQUEST, summaries)

    assert lines[0][:4] == ["best", "test", "accuracy", "first,"]
    assert lines[3][:2] == ["0.001", "8"]
    assert "validation" not in lines[1]


def test_failures_have_their_column(printed: Printed) -> None:
    summaries = summarize(REQUEST, [*results(REQUEST), failure(REQUEST.base, 2)])

    assert printed(print_ranking, REQUEST, summaries)[-1][-3:] == ["1", "of", "3"]


def test_long_ranking_names_the_file_with_the_rest(printed: Printed) -> None:
    request = sweep(bias=tuple(number / 100 for number in range(MAX_ROWS + 5)))
    lines = printed(print_ranking, request, summarize(request, results(request)))

    assert lines[-1] == ["and", "5", "more", "in", "summary.csv"]


def test_one_at_a_time_has_a_table_per_parameter_and_marks_the_base(printed: Printed) -> None:
    request = sweep("one-at-a-time", learning_rate=(0.01, 0.1, 0.001), optimizer=("sgd", "adam"))
    lines = printed(print_one_at_a_time, request, results(request))

    assert lines[0] == ["learning", "rate,", "all", "else", "as", "in", "the", "base"]
    assert [line[0] for line in lines[3:6]] == ["0.001", "0.01", "0.1"]
    means = ["0.9000", "±", "0.0000", "0.5500", "±", "0.0707"]
    assert lines[4] == ["0.01", "(base)", *means, "2"]
    assert lines[6] == []
    assert [line[0] for line in lines[10:12]] == ["sgd", "adam"]


def test_ranking_of_one_at_a_time_names_the_difference_to_the_base(printed: Printed) -> None:
    request = sweep("one-at-a-time", learning_rate=(0.01, 0.1), optimizer=("sgd", "adam"))
    lines = printed(print_ranking, request, summarize(request, results(request, validation=None)))

    assert [line[:-8] for line in lines[3:6]] == [
        ["optimizer", "adam"],
        ["learning", "rate", "0.1"],
        ["base"],
    ]


def test_unwritable_report_is_reported(tmp_path: Path) -> None:
    with pytest.raises(NotWritable) as refused:
        write_report(tmp_path / "nowhere", REQUEST, results(REQUEST))

    assert refused.value.code == "file_not_writable"
    assert str(tmp_path / "nowhere" / "summary.csv") in refused.value.message
