"""A sweep through processes: what is done stays done, whatever ends it."""

import csv
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from loupe.old_errors.train import InvalidTraining, SweepProcessDied
from tests.support.programs import PATIENCE_SECONDS, running, until
from tests.support.sweeps import sweep
from train.runs import DataSource
from train.sweep.folder import RESULTS_FILE, SweepFolder
from train.sweep.sweeping import run_sweep, train_missing, with_epochs
from train.sweep.sweeps import Result, Setting
from train.sweep.trials import train_one

DIGITS = DataSource(dataset="digits-8x8")
SEEDS = 500  # more than are trained before the sweep is stopped
LONG = [
    "--epochs",
    "100",
    "--optimizer",
    "sgd",
    "--seeds",
    str(SEEDS),
    "--validation",
    "0",
    "--jobs",
    "1",
]
COMMAND = ["train", "sweep", "--dataset", "digits-8x8", "--architecture", "mlp-small"]


def lines(folder: Path) -> list[str]:
    file = folder / RESULTS_FILE
    return file.read_text().splitlines()[1:] if file.exists() else []


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie has ended, and only its parent has not looked yet."""
    return [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def train_here(trainings: Sequence[tuple[Setting, int]]) -> Iterator[Result]:
    """Train as the processes of a sweep do, in this one."""
    return (train_one(DIGITS, setting, seed) for setting, seed in trainings)


def tried(results: Sequence[Result]) -> list[tuple[Setting, int]]:
    return [(result.setting, result.seed) for result in results]


def test_a_sweep_trains_what_is_missing_and_nothing_twice_and_a_line_that_was_cut_is(
    tmp_path: Path,
) -> None:
    wanted = sweep(epochs=(2,), learning_rate=(0.01, 0.1))
    place = SweepFolder.open(tmp_path, wanted, "data")
    seen: list[tuple[int, int]] = []
    results = train_missing(
        wanted, place, train_here, watch=lambda done, total: seen.append((len(done), total))
    )
    kept = lines(tmp_path)

    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert tried(results) == [(setting, seed) for setting in wanted.grid() for seed in (0, 1)]

    file = tmp_path / RESULTS_FILE
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]) + kept[2][:10])
    again = train_missing(wanted, place, train_here)

    assert again[:2] == results[:2]
    assert tried(again) == tried(results)
    assert lines(tmp_path)[:2] == kept[:2]
    assert (
        train_missing(wanted, place, lambda trainings: pytest.fail(f"trained again: {trainings}"))
        == again
    )


def test_a_search_tries_as_many_settings_as_it_may_and_goes_on_where_it_stopped(
    tmp_path: Path,
) -> None:
    wanted = sweep(
        "trials", trials=3, epochs=(2,), learning_rate=(0.1, 0.01, 0.001), optimizer=("sgd", "adam")
    )
    place = SweepFolder.open(tmp_path, wanted, "data")
    results = train_missing(wanted, place, train_here)

    assert len(results) == 6
    assert len({run.setting for run in results}) == 3

    file = tmp_path / RESULTS_FILE
    file.write_text(
        "".join(file.read_text().splitlines(keepends=True)[:4])
    )  # one setting and a half
    assert tried(train_missing(wanted, place, train_here)) == tried(results)


def test_a_search_without_a_validation_split_is_refused(tmp_path: Path) -> None:
    wanted = sweep("trials", trials=3, validation_fraction=(0.0,), optimizer=("sgd", "adam"))
    with pytest.raises(
        InvalidTraining,
        match="--trials: expected a validation split to choose by, as with --validation",
    ):
        run_sweep(wanted, tmp_path / "sweep")

    assert not (tmp_path / "sweep").exists()


def test_epochs_that_nobody_named_are_those_of_loupe_train() -> None:
    assert with_epochs(sweep(batch_size=(128,))).values["epochs"] == (1000,)
    assert with_epochs(sweep(epochs=(3, 4))).values["epochs"] == (3, 4)


@pytest.mark.timeout(150)
def test_ctrl_c_stops_at_once_says_how_to_go_on_and_leaves_no_process(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "sweep"
    with running(log, *COMMAND, *LONG, "--out", out) as process:
        until(lambda: lines(out))
        begun = family(psutil.Process(process.pid))
        for member in begun:  # as a terminal does
            member.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_SECONDS) == 130

    until(lambda: not living(begun))
    words = " ".join(log.read_text().split())
    done = len(lines(out))
    assert re.search(
        rf"Stopped after {done} of {SEEDS} trainings; their results are in '{out}'. The same command goes on.",
        words,
    )
    assert "Traceback" not in words


@pytest.mark.timeout(150)
def test_processes_end_with_a_sweep_that_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with running(tmp_path / "log", *COMMAND, *LONG, "--out", out) as process:
        until(lambda: lines(out))
        begun = family(psutil.Process(process.pid))
        process.kill()

    until(lambda: not living(begun))
    with (out / RESULTS_FILE).open() as file:
        assert all(row["error"] == "" for row in csv.DictReader(file))


@pytest.mark.timeout(150)
def test_a_training_process_that_is_killed_is_told_and_what_was_done_stays(tmp_path: Path) -> None:
    wanted = sweep(epochs=(5,), learning_rate=(0.1, 0.01))

    def kill_after_one(results: object, total: int) -> None:
        if lines(tmp_path):
            for child in psutil.Process().children():
                if "multiprocessing.spawn" in " ".join(child.cmdline()):
                    child.kill()

    with pytest.raises(
        SweepProcessDied, match=r"A process that trained was killed, after \d of 4 trainings"
    ):
        run_sweep(wanted, tmp_path, jobs=1, watch=kill_after_one)

    assert 1 <= len(lines(tmp_path)) < 4
