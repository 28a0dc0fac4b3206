"""Small sweeps, and results made without training."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from train.config import Setting
from train.data.source import DataSource
from train.sweep.study import SweepStudy, Training, open_study
from train.sweep.sweeps import Result, Scores, Sweep, SweepPlan, Value


def sweep(
    plan: SweepPlan = "grid", seeds: int = 2, trials: int = 0, **values: tuple[Value, ...]
) -> Sweep:
    """Return a sweep over the small digits."""
    return sweep_of(values, plan, seeds, trials)


def sweep_of(
    values: Mapping[str, Sequence[Value]],
    plan: SweepPlan = "grid",
    seeds: int = 2,
    trials: int = 0,
) -> Sweep:
    """Return a sweep over the small digits, with values from a mapping."""
    return Sweep(
        source=DataSource(dataset="digits-8x8"),
        architecture="mlp-small",
        values={name: tuple(several) for name, several in values.items()},
        seeds=seeds,
        plan=plan,
        trials=trials,
    )


def result(
    setting: Setting, seed: int = 0, *, validation: float | None = 0.5, test: float = 0.5
) -> Result:
    """Return a result with these accuracies."""
    return Result(
        setting, seed, Scores(0.9, validation, test, test_loss=0.25, trained_epochs=10, seconds=1.5)
    )


def failure(setting: Setting, seed: int = 0) -> Result:
    """Return the result of a training that failed."""
    return Result(setting, seed, None, "The loss became NaN")


def studying(
    folder: Path, sweep: Sweep, images: str = "digest"
) -> AbstractContextManager[SweepStudy]:
    """Open the study of a sweep, by default always over the same images."""
    return open_study(folder, sweep, {"train": images})


def start_all(study: SweepStudy) -> list[Training]:
    """Start all settings of a sweep, and return their trainings."""
    trainings = study.unfinished()
    while more := study.start_next():
        trainings += more
    return trainings
