"""Sweeps: the settings to try, and statistics over their results. Nothing is trained here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from math import inf
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from train.config import FULL_BATCH, Setting, changed, recipe
from train.data.source import DataSource

SweepPlan = Literal["grid", "one-at-a-time", "trials"]
Value: TypeAlias = bool | int | float | str | tuple[int, ...]


class Sweep(BaseModel):
    """A request to train with many settings; an impossible one raises `InvalidUsage`.

    Attributes:
        source: The images.
        architecture: The network; its recipe gives all values that are not in `values`.
        values: Values to try, the base first, by name in `Setting`; text is parsed.
        seeds: Trainings per setting, with the seeds from 0. The seed also splits data sets without
            a test split, so that the spread includes the luck of the split.
        plan: `grid`: all combinations. `one-at-a-time`: the base, and every other value of each
            parameter with the rest as in the base. `trials`: a choice by Optuna's sampler.
        trials: Maximum of settings for the plan `trials`.
    """

    model_config = ConfigDict(frozen=True)

    source: DataSource
    architecture: str
    values: dict[str, tuple[Value, ...]] = {}
    seeds: int = Field(default=5, ge=1)
    plan: SweepPlan = "grid"
    trials: int = Field(default=0, ge=0)

    @field_validator("values")
    @classmethod
    def _parse_each_once(cls, values: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        return {
            name: tuple(
                dict.fromkeys(getattr(changed(Setting(), **{name: value}), name) for value in given)
            )
            for name, given in values.items()
        }

    @model_validator(mode="after")
    def _check_each_value(self) -> "Sweep":
        for name, values in self.values.items():
            for value in values:
                self.setting({name: value})
        return self

    @property
    def base(self) -> Setting:
        """The first value of each parameter."""
        return self.setting({})

    @property
    def varied(self) -> tuple[str, ...]:
        """The parameters with more than one value."""
        return tuple(name for name, values in self.values.items() if len(values) > 1)

    @property
    def trainings(self) -> int:
        """Number of trainings of the sweep."""
        settings = len(self.settings())
        return self.seeds * (min(self.trials, settings) if self.plan == "trials" else settings)

    def settings(self) -> tuple[Setting, ...]:
        """Return all settings that the plan can choose, the base first."""
        if self.plan == "one-at-a-time":
            others = [(name, value) for name, given in self.values.items() for value in given[1:]]
            return (self.base, *(self.setting({name: value}) for name, value in others))
        return tuple(
            self.setting(dict(zip(self.values, values, strict=True)))
            for values in product(*self.values.values())
        )

    def setting(self, values: Mapping[str, Value]) -> Setting:
        """Return the base with other values."""
        chosen = {name: given[0] for name, given in self.values.items()} | dict(values)
        fraction = chosen.pop("test_fraction", None)
        config = recipe(self.architecture, None, self.source.recipe_look, **chosen)
        return changed(Setting(), **asdict(config), test_fraction=fraction)


@dataclass(frozen=True)
class Scores:
    """The figures of one training.

    Attributes:
        train_accuracy: Fraction, 0..1, of at most 10,000 of the training images.
        validation_accuracy: Fraction, 0..1; `None` without a validation split.
        test_accuracy: Fraction, 0..1; nothing is chosen by it if there is a validation split.
        test_loss: Mean cross-entropy in nats, without temperature scaling.
        trained_epochs: Fewer than requested if training stopped early.
        seconds: Duration of the training.
    """

    train_accuracy: float
    validation_accuracy: float | None
    test_accuracy: float
    test_loss: float
    trained_epochs: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """The scores of one training, or the reason why it failed."""

    setting: Setting
    seed: int
    scores: Scores | None
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """A mean and the sample standard deviation, which is 0 for a single number."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """Compute the spread of at least one number."""
        return cls(fmean(numbers), stdev(numbers) if len(numbers) > 1 else 0.0)


@dataclass(frozen=True)
class SettingSummary:
    """A setting over its seeds.

    Attributes:
        setting: The setting.
        runs: Trainings that ended, including the failed ones.
        failed: Trainings without scores.
        spreads: By the fields of `Scores`; without those that the trainings do not have.
    """

    setting: Setting
    runs: int
    failed: int
    spreads: Mapping[str, Spread]

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better: no failure, then validation accuracy, or test accuracy without one."""
        chosen = self.spreads.get("validation_accuracy") or self.spreads.get("test_accuracy")
        return not self.failed, chosen.mean if chosen else 0.0


def summarize(sweep: Sweep, results: Iterable[Result]) -> tuple[SettingSummary, ...]:
    """Summarize every setting that has results, the best first; ties keep the sweep's order."""
    by_setting: dict[Setting, list[Result]] = {setting: [] for setting in sweep.settings()}
    for result in results:
        by_setting[result.setting].append(result)
    summaries = (_summary(setting, runs) for setting, runs in by_setting.items() if runs)
    return tuple(sorted(summaries, key=lambda summary: summary.rank, reverse=True))


def _summary(setting: Setting, results: Sequence[Result]) -> SettingSummary:
    scores = [result.scores for result in results if result.scores]
    spreads = {}
    for field in fields(Scores):
        numbers = [getattr(score, field.name) for score in scores]
        if numbers and None not in numbers:
            spreads[field.name] = Spread.of(numbers)
    return SettingSummary(setting, len(results), len(results) - len(scores), spreads)


def by_value(sweep: Sweep, results: Sequence[Result], name: str) -> dict[Value, list[Result]]:
    """Group results by a parameter's value: numbers in rising order, names as they were given.

    With the plan `one-at-a-time`, only results that are as the base in everything else count.
    """
    values = list(sweep.values[name])
    if not any(isinstance(value, str) for value in values):
        values.sort(key=lambda value: order(name, value))
    alone = sweep.plan == "one-at-a-time"
    others = [sweep.setting({name: value}) for value in values]
    return {
        value: [
            result
            for result in results
            if (result.setting == other if alone else getattr(result.setting, name) == value)
        ]
        for value, other in zip(values, others, strict=True)
    }


def order(name: str, value: Value) -> tuple[float, ...]:
    """Return a sort key: a full batch is the largest, and layers sort by number, then units."""
    if isinstance(value, tuple):
        return (len(value), *value)
    return (inf if as_text(name, value) == "full" else float(value),)


def as_text(name: str, value: Value | None) -> str:
    """Write a parameter's value for tables and files; different values have different texts."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    if name == "batch_size" and value == FULL_BATCH:
        return "full"
    return "" if value is None else str(value)
