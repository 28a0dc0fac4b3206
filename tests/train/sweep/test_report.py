"""Tables, `summary.csv` and pictures of a sweep."""

import csv
import io
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from loupe.errors import NotWritable
from tests.support.sweeps import failure, result, sweep
from train.sweep.report import MAX_ROWS, one_at_a_time, ranking, write_report
from train.sweep.sweeps import Result, Sweep, summarize

REQUEST = sweep(learning_rate=(0.01, 0.1, 0.001), hidden=((32, 16), (8,)), epochs=(10,))


def words(table: Table, width: int = 160) -> list[list[str]]:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return [line.strip("│┃ ").split() for line in capture.get().splitlines()]


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


def test_ranking_names_its_order_and_the_varied_values() -> None:
    table = ranking(REQUEST, summarize(REQUEST, results(REQUEST)))

    assert words(table)[0][:4] == ["best", "validation", "accuracy", "first,"]
    assert ["0.01", "32-16", "90.0", "±", "0.0", "50.0", "±", "0.0", "55.0", "±", "7.1"] in [
        line[:11] for line in words(table)
    ]


def test_three_varied_parameters_fit_a_terminal_of_80_columns() -> None:
    request = sweep(learning_rate=(0.005, 0.01), epochs=(101, 2001), optimizer=("adadelta", "sgd"))
    lines = words(ranking(request, summarize(request, results(request))), width=80)

    assert ["0.005", "2001", "adadelta"] in [line[:3] for line in lines]
    assert lines[-1][-2:] == ["0.250", "1.5"]


def test_ranking_without_validation_is_by_test_accuracy() -> None:
    lines = words(ranking(REQUEST, summarize(REQUEST, results(REQUEST, validation=None))))

    assert lines[0][:4] == ["best", "test", "accuracy", "first,"]
    assert lines[3][:2] == ["0.001", "8"]
    assert "validation" not in lines[2]


def test_failures_have_their_column() -> None:
    lines = words(
        ranking(REQUEST, summarize(REQUEST, [*results(REQUEST), failure(REQUEST.base, 2)]))
    )

    assert lines[-1][-3:] == ["1", "of", "3"]


def test_long_ranking_names_the_file_with_the_rest() -> None:
    request = sweep(bias=tuple(number / 100 for number in range(MAX_ROWS + 5)))
    lines = words(ranking(request, summarize(request, results(request))))

    assert lines[-1] == ["and", "5", "more", "in", "summary.csv"]


def test_one_at_a_time_has_a_table_per_parameter_and_marks_the_base() -> None:
    request = sweep("one-at-a-time", learning_rate=(0.01, 0.1, 0.001), optimizer=("sgd", "adam"))
    rates, optimizers = [words(table) for table in one_at_a_time(request, results(request))]

    assert rates[0] == ["learning", "rate,", "all", "else", "as", "in", "the", "base"]
    assert [line[0] for line in rates[2:5]] == ["0.001", "0.01", "0.1"]
    assert rates[3] == [
        "0.01",
        "(base)",
        "90.0",
        "±",
        "0.0",
        "55.0",
        "±",
        "7.1",
        "2",
    ]
    assert [line[0] for line in optimizers[2:4]] == ["sgd", "adam"]


def test_ranking_of_one_at_a_time_names_the_difference_to_the_base() -> None:
    request = sweep("one-at-a-time", learning_rate=(0.01, 0.1), optimizer=("sgd", "adam"))
    lines = words(ranking(request, summarize(request, results(request, validation=None))))

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
