"""Sweeps: which settings are tried, and what came of them. Nothing is trained here."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from statistics import fmean, stdev
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, field_validator

from loupe.old_errors.train import InvalidTraining
from train.config import FULL_BATCH, TrainConfig, recipe
from train.runs import DataSource

Plan = Literal["grid", "one-at-a-time", "trials"]
Value: TypeAlias = bool | int | float | str | tuple[int, ...]

TEST_FRACTION = "test_fraction"  # the one value that is the data set's rather than the training's


@dataclass(frozen=True)
class Setting:
    """What one training is told, but for its seed.

    Attributes:
        config: The hyperparameters; their seed stays 0.
        test_fraction: Share, 0..1, of the images to test with; `None` for the data set's own test split.
    """

    config: TrainConfig
    test_fraction: float | None = None

    def value(self, name: str) -> Value | None:
        """A hyperparameter by its name in `TrainConfig`, or the test fraction."""
        return self.test_fraction if name == TEST_FRACTION else getattr(self.config, name)


class Sweep(BaseModel):
    """What is to be tried.

    Attributes:
        source: The images.
        architecture: The network; what `values` does not name is as its recipe has it.
        values: By hyperparameter of `TrainConfig`, or `test_fraction`: the values to try, the base first.
        seeds: How often each setting is trained, with the seeds from 0 on. The seed also splits those data sets that bring no test
            split, so that the spread has the luck of the split in it.
        plan: All combinations; the base and every other value of each parameter by itself; or what Optuna's sampler picks.
        trials: How many settings Optuna's sampler may pick.
    """

    model_config = ConfigDict(frozen=True)

    source: DataSource
    architecture: str
    values: dict[str, tuple[Value, ...]] = {}
    seeds: int = 5
    plan: Plan = "grid"
    trials: int = 0

    @field_validator("values")
    @classmethod
    def _each_once(cls, values: dict[str, tuple[Value, ...]]) -> dict[str, tuple[Value, ...]]:
        return {name: tuple(dict.fromkeys(several)) for name, several in values.items()}

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is.

        Raises:
            InvalidTraining: If a value is impossible, or the numbers are.
        """
        for option, least, received in (
            ("seeds", 1, self.seeds),
            ("trials", int(self.plan == "trials"), self.trials),
        ):
            if received < least:
                raise InvalidTraining(option, f"at least {least}", str(received))
        for fraction in self.values.get(TEST_FRACTION, ()):
            if not (isinstance(fraction, float) and 0 < fraction < 1):
                raise InvalidTraining(
                    "test fraction", "a share above 0 and below 1", as_text(TEST_FRACTION, fraction)
                )
        self.one_at_a_time()  # has every value once

    @property
    def base(self) -> Setting:
        """The first value of each parameter."""
        return self.setting({})

    @property
    def varied(self) -> tuple[str, ...]:
        """The parameters with more than one value."""
        return tuple(name for name, values in self.values.items() if len(values) > 1)

    def settings(self) -> tuple[Setting, ...]:
        """All that is tried, or may be."""
        return self.one_at_a_time() if self.plan == "one-at-a-time" else self.grid()

    def grid(self) -> tuple[Setting, ...]:
        """All combinations, the base first."""
        return tuple(
            self.setting(dict(zip(self.values, values, strict=True)))
            for values in product(*self.values.values())
        )

    def one_at_a_time(self) -> tuple[Setting, ...]:
        """The base, and then for each parameter what differs from it in that one."""
        others = [
            self.setting({name: value})
            for name, values in self.values.items()
            for value in values[1:]
        ]
        return (self.base, *others)

    def setting(self, values: Mapping[str, Value]) -> Setting:
        """The base with other values.

        Raises:
            InvalidTraining: If one is impossible.
        """
        chosen = {name: several[0] for name, several in self.values.items()} | dict(values)
        fraction = chosen.pop(TEST_FRACTION, None)
        return Setting(
            recipe(self.architecture, **chosen),
            float(fraction) if isinstance(fraction, float) else None,
        )


@dataclass(frozen=True)
class Scores:
    """What a training came to.

    Attributes:
        train_accuracy: Fraction, after the training, of at most 10,000 of the training images.
        validation_accuracy: Fraction; `None` without a validation split.
        test_accuracy: Fraction; nothing is ever chosen by it where there is a validation split.
        test_loss: Mean cross-entropy, in nats, without temperature scaling.
        trained_epochs: Fewer than asked for where training stopped early.
        seconds: That they took.
    """

    train_accuracy: float
    validation_accuracy: float | None
    test_accuracy: float
    test_loss: float
    trained_epochs: int
    seconds: float


@dataclass(frozen=True)
class Result:
    """One training: its scores, or why it has none."""

    setting: Setting
    seed: int
    scores: Scores | None
    error: str = ""


@dataclass(frozen=True)
class Spread:
    """A mean, and the sample standard deviation around it: 0 of a single number."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> "Spread":
        """The spread of at least one number."""
        return cls(fmean(numbers), stdev(numbers) if len(numbers) > 1 else 0.0)


@dataclass(frozen=True)
class Summary:
    """A setting over its seeds; what failed counts only as failed.

    `train_accuracy` and the others are `None` where every training failed, and `validation_accuracy` where there is no such split.
    """

    setting: Setting
    runs: int
    failed: int
    train_accuracy: Spread | None
    validation_accuracy: Spread | None
    test_accuracy: Spread | None
    test_loss: Spread | None
    seconds: Spread | None

    @property
    def rank(self) -> tuple[bool, float]:
        """Higher is better: nothing failed, and the validation accuracy, or without such a split the test accuracy."""
        chosen = self.validation_accuracy or self.test_accuracy
        return not self.failed, chosen.mean if chosen else 0.0


def summarize(sweep: Sweep, results: Iterable[Result]) -> tuple[Summary, ...]:
    """A summary of every setting there are results of, the best first; of equals, the first of the sweep."""
    by_setting: dict[Setting, list[Result]] = {setting: [] for setting in sweep.settings()}
    for result in results:
        by_setting.setdefault(result.setting, []).append(result)
    summaries = (_summary(setting, runs) for setting, runs in by_setting.items() if runs)
    return tuple(sorted(summaries, key=lambda summary: summary.rank, reverse=True))


def by_value(sweep: Sweep, results: Iterable[Result], name: str) -> dict[Value, tuple[Result, ...]]:
    """The results with each value of a parameter, numbers in rising order, names as they were given.

    Of a sweep of one parameter at a time only those that are the base in everything else.
    """
    values = list(sweep.values[name])
    if not any(isinstance(value, str) for value in values):
        values.sort(key=lambda value: order(name, value))
    alone = {value: sweep.setting({name: value}) for value in values}
    found: dict[Value, list[Result]] = {value: [] for value in values}
    for result in results:
        value = result.setting.value(name)
        if value is not None and (sweep.plan != "one-at-a-time" or result.setting == alone[value]):
            found[value].append(result)
    return {value: tuple(runs) for value, runs in found.items()}


def order(name: str, value: Value) -> tuple[float, ...]:
    """Sorts numbers by size, a full batch as the largest, and layers by how many they are and then by their units."""
    if isinstance(value, tuple):
        return (len(value), *value)
    return (inf if _is_full_batch(name, value) else float(value),)


def as_text(name: str, value: Value | None) -> str:
    """A parameter's value in a table or a file; different for different values."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    if _is_full_batch(name, value):
        return "full"
    return "" if value is None else str(value)


def _is_full_batch(name: str, value: Value | None) -> bool:
    return name == "batch_size" and value == FULL_BATCH


def _summary(setting: Setting, results: Sequence[Result]) -> Summary:
    scores = [result.scores for result in results if result.scores]

    def spread(numbers: Iterable[float | None]) -> Spread | None:
        known = [number for number in numbers if number is not None]
        return Spread.of(known) if known else None

    return Summary(
        setting,
        runs=len(results),
        failed=len(results) - len(scores),
        train_accuracy=spread(score.train_accuracy for score in scores),
        validation_accuracy=spread(score.validation_accuracy for score in scores),
        test_accuracy=spread(score.test_accuracy for score in scores),
        test_loss=spread(score.test_loss for score in scores),
        seconds=spread(score.seconds for score in scores),
    )
