"""Sweeps made small, and results that nobody had to train for."""

from collections.abc import Mapping, Sequence

from train.runs import DataSource
from train.sweep.sweeps import Plan, Result, Scores, Setting, Sweep, Value


def sweep(
    plan: Plan = "grid", seeds: int = 2, trials: int = 0, **values: tuple[Value, ...]
) -> Sweep:
    """A sweep over the small digits."""
    return sweep_of(values, plan, seeds, trials)


def sweep_of(
    values: Mapping[str, Sequence[Value]], plan: Plan = "grid", seeds: int = 2, trials: int = 0
) -> Sweep:
    """A sweep over the small digits, of values that were drawn."""
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
    """A training that came to such accuracies."""
    return Result(
        setting, seed, Scores(0.9, validation, test, test_loss=0.25, trained_epochs=10, seconds=1.5)
    )


def failure(setting: Setting, seed: int = 0) -> Result:
    """A training that came to nothing."""
    return Result(setting, seed, None, "The loss became NaN")
