"""`results.csv`: read back as written, and refused if it belongs to something else."""

from pathlib import Path

import pytest

from loupe.errors import Conflict
from tests.support.sweeps import failure, result, sweep
from train.sweep.results import RESULTS_FILE, columns, encode, read_results
from train.sweep.sweeps import Result

REQUEST = sweep(
    learning_rate=(0.1, 1e-05), hidden=((32, 16), (8,)), batch_size=(0, 32), epochs=(7,)
)
HEADER = ",".join(columns(REQUEST)) + "\n"


def write(folder: Path, *results: Result) -> Path:
    file = folder / RESULTS_FILE
    file.write_text(HEADER + encode(REQUEST, results))
    return file


def test_results_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    results = (
        *(result(setting, seed, test=1 / 3) for seed, setting in enumerate(REQUEST.settings())),
        failure(REQUEST.base, 1),
        result(REQUEST.base, validation=None),
    )
    write(tmp_path, *results)

    assert read_results(tmp_path, REQUEST) == results


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_truncated_last_line_is_ignored(tmp_path: Path, cut: int) -> None:
    whole, torn = (result(REQUEST.base, seed) for seed in range(2))
    file = write(tmp_path, whole, torn)
    file.write_bytes(file.read_bytes()[:-cut])

    assert read_results(tmp_path, REQUEST) == (whole,)


@pytest.mark.parametrize("content", ["", "learning_ra", HEADER])
def test_a_file_without_lines_has_no_results(tmp_path: Path, content: str) -> None:
    (tmp_path / RESULTS_FILE).write_text(content)

    assert read_results(tmp_path, REQUEST) == ()


def test_a_missing_file_has_no_results(tmp_path: Path) -> None:
    assert read_results(tmp_path, REQUEST) == ()


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("0.7,32-16,full,7,0,0.9,0.5,0.5,0.25,10,1.5,", id="unknown value"),
        pytest.param("0.1,32-16,full,7,x,0.9,0.5,0.5,0.25,10,1.5,", id="seed is no number"),
        pytest.param("0.1,32-16", id="too few cells"),
    ],
)
def test_a_line_of_another_sweep_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / RESULTS_FILE).write_text(f"{HEADER}{line}\n")
    with pytest.raises(Conflict) as refused:
        read_results(tmp_path, REQUEST)

    assert refused.value.code == "sweep_damaged"
    for fact in ("Line 2", str(tmp_path / RESULTS_FILE), line):
        assert fact in refused.value.message


def test_other_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text("a,b\n1,2\n")
    with pytest.raises(Conflict) as refused:
        read_results(tmp_path, REQUEST)

    assert refused.value.code == "sweep_damaged"
