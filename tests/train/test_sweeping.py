"""A sweep through processes: what is done stays done, whatever ends it."""

import csv
import re
import signal
from pathlib import Path

import psutil
import pytest

from tests.programs import PATIENCE_SECONDS, running, until
from tests.train.sweeps import sweep
from train.errors import InvalidTraining, SweepProcessDied
from train.sweep_folder import RESULTS_FILE
from train.sweeping import run_sweep, with_epochs
from train.sweeps import Result

SEEDS = 500  # more than are trained before the sweep is stopped
LONG = ["--epochs", "100", "--optimizer", "sgd", "--seeds", str(SEEDS), "--validation", "0", "--jobs", "1"]
COMMAND = ["train", "sweep", "--dataset", "digits-8x8", "--architecture", "mlp-small"]


def lines(folder: Path) -> list[str]:
    file = folder / RESULTS_FILE
    return file.read_text().splitlines()[1:] if file.exists() else []


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def living(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still run; a zombie has ended, and only its parent has not looked yet."""
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.timeout(150)
def test_a_sweep_trains_what_is_missing_and_nothing_twice(tmp_path: Path) -> None:
    wanted = sweep(epochs=(20,), learning_rate=(0.01, 1e30), optimizer=("sgd",))
    seen: list[tuple[int, int]] = []
    results = run_sweep(wanted, tmp_path, jobs=2, watch=lambda done, total: seen.append((len(done), total)))

    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert {(run.setting.config.learning_rate, run.seed, bool(run.scores)) for run in results} == {
        (0.01, 0, True),
        (0.01, 1, True),
        (1e30, 0, False),
        (1e30, 1, False),
    }

    file = tmp_path / RESULTS_FILE
    kept = file.read_text().splitlines()
    file.write_text("\n".join(kept[:3]) + "\n" + kept[3][:10])
    again = run_sweep(wanted, tmp_path, jobs=1)

    assert again[:2] == results[:2]
    assert {(run.setting, run.seed) for run in again} == {(run.setting, run.seed) for run in results}
    assert file.read_text().splitlines()[:3] == kept[:3]


@pytest.mark.timeout(150)
def test_a_search_tries_as_many_settings_as_it_may_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    wanted = sweep("trials", trials=3, epochs=(5,), learning_rate=(0.1, 0.01, 0.001), optimizer=("sgd", "adam"))
    results = run_sweep(wanted, tmp_path, jobs=1)

    assert len(results) == 6
    assert len({run.setting for run in results}) == 3

    file = tmp_path / RESULTS_FILE
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:4]))  # one setting and a half

    def tried(runs: tuple[Result, ...]) -> list[tuple[object, int]]:
        return [(run.setting, run.seed) for run in runs]

    assert tried(run_sweep(wanted, tmp_path, jobs=1)) == tried(results)


def test_a_search_without_a_validation_split_is_refused(tmp_path: Path) -> None:
    wanted = sweep("trials", trials=3, validation_fraction=(0.0,), optimizer=("sgd", "adam"))
    with pytest.raises(
        InvalidTraining, match="--trials: expected a validation split to choose by, as with --validation"
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
        rf"Stopped after {done} of {SEEDS} trainings; their results are in '{out}'. The same command goes on.", words
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

    with pytest.raises(SweepProcessDied, match=r"A process that trained was killed, after \d of 4 trainings"):
        run_sweep(wanted, tmp_path, jobs=1, watch=kill_after_one)

    assert 1 <= len(lines(tmp_path)) < 4
