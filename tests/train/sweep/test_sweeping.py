"""A sweep through processes: finished trainings survive its end."""

import csv
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from loupe.errors import InvalidUsage, ProgramFailed, SourceChanged
from tests.support.pictures import sort_into_folders
from tests.support.programs import PATIENCE_SECONDS, running, until
from tests.support.sweeps import studying, sweep
from train.config import Setting
from train.data.source import DataSource
from train.sweep.study import RESULTS_FILE, STUDY_FILE
from train.sweep.sweeping import run_sweep, train_missing, with_epochs
from train.sweep.sweeps import Result, Sweep

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
    """Return the processes that still run; a zombie has ended."""
    return [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]


def train_here(request: Sweep, folder: Path) -> tuple[Result, ...]:
    """Train what is missing in this process."""
    with studying(folder, request) as study, ThreadPoolExecutor(1) as pool:
        train_missing(study, pool)
        return study.results()


def tried(results: tuple[Result, ...]) -> list[tuple[Setting, int]]:
    return [(result.setting, result.seed) for result in results]


def keep(folder: Path, request: Sweep, results: tuple[Result, ...]) -> None:
    """Go back to the time when the folder had only these results."""
    for name in (STUDY_FILE, RESULTS_FILE):
        (folder / name).unlink()
    with studying(folder, request) as study:
        for result in results:
            if result.seed == 0:
                study.start_next()
            study.record(result)


def test_only_missing_trainings_are_trained(tmp_path: Path) -> None:
    request = sweep(epochs=(2,), learning_rate=(0.01, 0.1))
    seen: list[tuple[int, int]] = []
    with studying(tmp_path, request) as study, ThreadPoolExecutor(1) as pool:
        train_missing(study, pool, watch=lambda done, total: seen.append((done, total)))
        results = study.results()

    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]
    assert tried(results) == [(setting, seed) for setting in request.settings() for seed in (0, 1)]

    kept = lines(tmp_path)
    assert train_here(request, tmp_path) == results
    keep(tmp_path, request, results[:3])
    again = train_here(request, tmp_path)

    assert again[:3] == results[:3]
    assert tried(again) == tried(results)
    assert lines(tmp_path)[:3] == kept[:3]


def test_a_search_stops_at_its_number_of_settings_and_resumes(tmp_path: Path) -> None:
    request = sweep(
        "trials", trials=2, epochs=(2,), learning_rate=(0.1, 0.01, 0.001), optimizer=("sgd", "adam")
    )
    results = train_here(request, tmp_path)

    assert len(results) == 4
    assert len({run.setting for run in results}) == 2

    keep(tmp_path, request, results[:3])  # one setting and a half
    again = train_here(request, tmp_path)
    assert tried(again) == tried(results)


def test_a_search_without_a_validation_split_is_refused(tmp_path: Path) -> None:
    request = sweep("trials", trials=3, validation_fraction=(0.0,), optimizer=("sgd", "adam"))
    with pytest.raises(InvalidUsage) as refused:
        run_sweep(request, tmp_path / "sweep")

    assert refused.value.code == "invalid_training"
    assert "--validation" in refused.value.message
    assert not (tmp_path / "sweep").exists()


def test_missing_epochs_are_those_of_loupe_train() -> None:
    assert with_epochs(sweep(batch_size=(128,))).values["epochs"] == (1000,)
    assert with_epochs(sweep(epochs=(3, 4))).values["epochs"] == (3, 4)


@pytest.mark.timeout(150)
def test_ctrl_c_stops_and_leaves_no_process(tmp_path: Path) -> None:
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
    assert f"after {done} of {SEEDS} trainings" in words
    assert str(out) in words
    assert "Traceback" not in words


@pytest.mark.timeout(150)
def test_processes_end_when_their_sweep_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    with running(tmp_path / "log", *COMMAND, *LONG, "--out", out) as process:
        until(lambda: lines(out))
        begun = family(psutil.Process(process.pid))
        process.kill()

    until(lambda: not living(begun))
    with (out / RESULTS_FILE).open() as file:
        assert all(row["error"] == "" for row in csv.DictReader(file))


@pytest.mark.timeout(150)
def test_a_killed_training_process_is_reported_and_results_stay(tmp_path: Path) -> None:
    request = sweep(epochs=(5,), learning_rate=(0.1, 0.01))

    def kill_after_one(done: int, total: int) -> None:
        if done:
            for child in psutil.Process().children():
                if "multiprocessing.spawn" in " ".join(child.cmdline()):
                    child.kill()

    with pytest.raises(ProgramFailed) as failed:
        run_sweep(request, tmp_path, jobs=1, watch=kill_after_one)

    assert failed.value.code == "sweep_process_died"
    assert "of 4 trainings" in failed.value.message
    assert 1 <= len(lines(tmp_path)) < 4


@pytest.mark.timeout(150)
def test_parallel_processes_give_the_results_of_one(tmp_path: Path) -> None:
    request = sweep(epochs=(3,), learning_rate=(0.1, 0.01), seeds=1)

    together = run_sweep(request, tmp_path / "sweep", jobs=2)

    assert tried(together) == [(setting, 0) for setting in request.settings()]
    for one, other in zip(train_here(request, tmp_path / "alone"), together, strict=True):
        assert one.scores is not None
        assert other.scores is not None
        assert other.scores.test_loss == pytest.approx(one.scores.test_loss, rel=1e-3)


@pytest.mark.timeout(150)
def test_sweep_ends_if_its_images_change(tmp_path: Path) -> None:
    folder = sort_into_folders(tmp_path / "pictures", {"cat": 20, "dog": 20})
    request = sweep(epochs=(1,), seeds=2).model_copy(
        update={"source": DataSource(dataset=f"folder:{folder}")}
    )

    def move_a_picture(done: int, total: int) -> None:
        if done == 0:
            (folder / "cat" / "0.png").rename(folder / "dog" / "moved.png")

    with pytest.raises(SourceChanged):
        run_sweep(request, tmp_path / "sweep", jobs=1, watch=move_a_picture)
    assert not lines(tmp_path / "sweep")
