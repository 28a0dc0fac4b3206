"""What a course through the tutorials is made of: their models, the settings they vary, our default, and the rows that are trained.

Which they are stands in `train.classics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pydantic import BaseModel, ConfigDict

from loupe.old_errors.train import InvalidTraining
from train.config import TrainConfig
from train.runs import DataSource
from train.sweep.sweeps import Sweep, Value


class Trial(BaseModel):
    """One training from beginning to end: equal trials give equal figures."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    config: TrainConfig
    test_fraction: float | None = None
    split_seed: int = 0
    compare_batches: bool = False


@dataclass(frozen=True)
class Tutorial:
    """A tutorial.

    Attributes:
        letter: What `--only` calls it.
        title: What it is about and what it was written with.
        default: The data set our default is trained on to stand beside its figures.
    """

    letter: str
    title: str
    default: str


@dataclass(frozen=True)
class Classic:
    """A model of a tutorial, as one row of the table.

    Attributes:
        key: Of this row, for others that speak of it.
        tutorial: Its letter.
        model: In words.
        trial: The tutorial's settings, and its data.
        reported: Test accuracy, 0..1, as the tutorial reports it; `None` where the row is our own answer to it.
        aim: Test accuracy, 0..1, that a good reproduction reaches.
        quick_epochs: Enough to see that it trains.
        reported_seconds: Per epoch, as the tutorial reports it: from, to.
        reported_loss: On the test split.
        repeated: Whether it is trained with every seed, because one run says little.
        beats: Keys of rows that this one is to be better than.
        if_missed: Key of a row; this one is trained only if that one misses its aim.
    """

    key: str
    tutorial: str
    model: str
    trial: Trial
    reported: float | None
    aim: float
    quick_epochs: int
    reported_seconds: tuple[float, float] | None = None
    reported_loss: float | None = None
    repeated: bool = False
    beats: tuple[str, ...] = ()
    if_missed: str | None = None


@dataclass(frozen=True)
class Factor:
    """A setting that a tutorial varies while all others stay.

    Attributes:
        name: In the tutorial's words.
        setting: Its name in a sweep.
        reported: Its values, and the test accuracy, 0..1, of the tutorial's single run with each.
    """

    name: str
    setting: str
    reported: tuple[tuple[Value, float], ...]


@dataclass(frozen=True)
class Study:
    """A tutorial's tables of one setting at a time.

    Attributes:
        tutorial: Its letter.
        dataset: What is trained on.
        architecture: The network.
        base: The settings from which each factor is varied.
        factors: What is varied.
    """

    tutorial: str
    dataset: str
    architecture: str
    base: dict[str, Value]
    factors: tuple[Factor, ...]

    def sweep(self, seeds: int) -> Sweep:
        """The sweep that trains it; its time is short, so it is never cut."""
        values = {name: [value] for name, value in self.base.items()}
        for factor in self.factors:
            values[factor.setting] += [value for value, _ in factor.reported]
        return Sweep(
            source=DataSource(dataset=self.dataset),
            architecture=self.architecture,
            values={name: tuple(several) for name, several in values.items()},
            seeds=seeds,
            plan="one-at-a-time",
        )


@dataclass(frozen=True)
class Default:
    """Our own default on a data set that the tutorials use."""

    trial: Trial
    quick_epochs: int


@dataclass(frozen=True)
class Row:
    """What is trained in one go, under a name for people: the same trial with every seed that counts."""

    name: str
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Plan:
    """All that is to be trained.

    Attributes:
        full_seeds: How often it is trained what one run says little about; each seed also splits the images anew.
        quick_seeds: The same when there is little time.
        quick: Whether there is.
    """

    tutorials: tuple[Tutorial, ...]
    classics: tuple[Classic, ...]
    study: Study | None = None
    defaults: tuple[Default, ...] = ()
    full_seeds: int = 5
    quick_seeds: int = 2
    quick: bool = field(default=False, kw_only=True)

    def only(self, letters: Sequence[str]) -> "Plan":
        """What belongs to some of the tutorials.

        Raises:
            InvalidTraining: If a letter is none of theirs.
        """
        known = [tutorial.letter for tutorial in self.tutorials]
        for letter in letters:
            if letter not in known:
                raise InvalidTraining(
                    "--only",
                    f"letters of tutorials ({', '.join(known)}) with commas between",
                    letter,
                )
        tutorials = tuple(tutorial for tutorial in self.tutorials if tutorial.letter in letters)
        wanted = {tutorial.default for tutorial in tutorials}
        return replace(
            self,
            tutorials=tutorials,
            classics=tuple(classic for classic in self.classics if classic.tutorial in letters),
            study=self.study if self.study and self.study.tutorial in letters else None,
            defaults=tuple(default for default in self.defaults if default.trial.dataset in wanted),
        )

    def of_classic(self, classic: Classic) -> Row:
        """The row of a tutorial's model."""
        trial = self._shortened(classic.trial, classic.quick_epochs)
        return Row(
            f"{classic.tutorial}: {classic.model}",
            self._seeded(trial) if classic.repeated else (trial,),
        )

    def of_default(self, default: Default) -> Row:
        """The row of our default on a data set."""
        trial = self._shortened(default.trial, default.quick_epochs)
        return Row(f"our default, {trial.config.architecture}, on {trial.dataset}", (trial,))

    def rows(self) -> list[Row]:
        """Everything but the classics that are only trained if others miss their aim."""
        classics = [self.of_classic(classic) for classic in self.classics if not classic.if_missed]
        return classics + [self.of_default(default) for default in self.defaults]

    @property
    def seeds(self) -> int:
        """How often each is trained of what is repeated: with the seeds from 0 on."""
        return self.quick_seeds if self.quick else self.full_seeds

    @property
    def sweep(self) -> Sweep | None:
        """What trains the study."""
        return self.study.sweep(self.seeds) if self.study else None

    def _shortened(self, trial: Trial, epochs: int) -> Trial:
        if not self.quick:
            return trial
        return trial.model_copy(
            update={"config": replace(trial.config, epochs=min(epochs, trial.config.epochs))}
        )

    def _seeded(self, trial: Trial) -> tuple[Trial, ...]:
        return tuple(
            trial.model_copy(
                update={"config": replace(trial.config, seed=seed), "split_seed": seed}
            )
            for seed in range(self.seeds)
        )
