"""The plan of `loupe train classics`: which models are trained, read from `classics.yaml`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

from loupe.errors import InvalidUsage
from train.config import TrainConfig, recipe
from train.data.source import DataSource
from train.sweep.sweeps import Sweep, Value

QUICK_SEEDS = 2
PLAN_FILE = Path(__file__).with_name("classics.yaml")


def _read_config(value: Any) -> Any:
    """Replace `{recipe: NAME, images: N}` by the recipe of an architecture."""
    is_recipe = isinstance(value, dict) and "recipe" in value
    return recipe(value["recipe"], value.get("images")) if is_recipe else value


class Frozen(BaseModel):
    """Base of the plan's models."""

    model_config = ConfigDict(frozen=True)


class Trial(Frozen):
    """One training with its evaluation; equal trials give equal results."""

    dataset: str
    config: Annotated[TrainConfig, BeforeValidator(_read_config)]
    test_fraction: float | None = None
    split_seed: int = 0
    compare_batches: bool = False

    def shortened(self, epochs: int) -> "Trial":
        """Return the trial with at most that many epochs."""
        config = replace(self.config, epochs=min(epochs, self.config.epochs))
        return self.model_copy(update={"config": config})

    def seeded(self, seed: int) -> "Trial":
        """Return the trial with another seed, which also splits the images."""
        config = replace(self.config, seed=seed)
        return self.model_copy(update={"config": config, "split_seed": seed})


class Tutorial(Frozen):
    """A tutorial.

    Attributes:
        letter: Its name in `--only`.
        title: Subject and library.
        default: Data set of our default that is compared with it.
    """

    letter: str
    title: str
    default: str


class Classic(Frozen):
    """A model of a tutorial: one row of the table.

    Attributes:
        key: Name for other rows to refer to.
        tutorial: Letter of the tutorial.
        model: Short description.
        trial: The tutorial's data and settings.
        reported: The tutorial's test accuracy, 0..1; `None` for our own variants.
        aim: Test accuracy, 0..1, that a good reproduction reaches.
        quick_epochs: Maximum of epochs with `--quick`.
        reported_seconds: The tutorial's range of seconds per epoch.
        reported_loss: The tutorial's test loss.
        repeated: Whether all seeds are trained, because single runs vary much.
        beats: Keys of rows to compare it with.
        if_missed: Key of a row; this one is trained only if that one misses its aim.
    """

    key: str
    tutorial: str
    model: str
    trial: Trial
    reported: float | None = None
    aim: float
    quick_epochs: int
    reported_seconds: tuple[float, float] | None = None
    reported_loss: float | None = None
    repeated: bool = False
    beats: tuple[str, ...] = ()
    if_missed: str | None = None


class Factor(Frozen):
    """A setting that a tutorial varies.

    Attributes:
        name: The tutorial's words.
        setting: Its name in a sweep.
        reported: Pairs of a value and the test accuracy, 0..1, of the tutorial's single run.
    """

    name: str
    setting: str
    reported: tuple[tuple[Value, float], ...]


class Study(Frozen):
    """A tutorial's tables of one setting at a time, which vary from `base`."""

    tutorial: str
    dataset: str
    architecture: str
    base: dict[str, Value]
    factors: tuple[Factor, ...]

    def sweep(self, seeds: int) -> Sweep:
        """Return the sweep that trains all tables."""
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


class Default(Frozen):
    """Our default on a data set that the tutorials use."""

    trial: Trial
    quick_epochs: int


@dataclass(frozen=True)
class Row:
    """A tutorial's model or our default, with its trials: one, or one per seed."""

    model: Classic | Default
    trials: tuple[Trial, ...]

    @property
    def name(self) -> str:
        """The model, for people."""
        if isinstance(self.model, Classic):
            return f"{self.model.tutorial}: {self.model.model}"
        trial = self.trials[0]
        return f"our default, {trial.config.architecture}, on {trial.dataset}"


class TutorialPlan(Frozen):
    """All trainings of `loupe train classics`.

    Attributes:
        tutorials: What the letters mean.
        classics: The tutorials' models.
        study: Tables of one setting at a time; it is short enough to train with `quick` as well.
        defaults: Our default on their data sets.
        seeds: Trainings of each repeated row, with the seeds from 0.
        quick: Train fewer epochs.
    """

    tutorials: tuple[Tutorial, ...]
    classics: tuple[Classic, ...]
    study: Study | None = None
    defaults: tuple[Default, ...] = ()
    seeds: int = 5
    quick: bool = False

    def only(self, letters: Sequence[str]) -> "TutorialPlan":
        """Return the part of the plan for some tutorials; refuse unknown letters."""
        known = [tutorial.letter for tutorial in self.tutorials]
        for letter in letters:
            if letter not in known:
                raise InvalidUsage(
                    f"There is no tutorial '{letter}'. --only takes letters separated by commas: "
                    f"{', '.join(known)}.",
                    code="invalid_training",
                )
        tutorials = [tutorial for tutorial in self.tutorials if tutorial.letter in letters]
        datasets = {tutorial.default for tutorial in tutorials}
        return self.model_copy(
            update={
                "tutorials": tuple(tutorials),
                "classics": tuple(each for each in self.classics if each.tutorial in letters),
                "study": self.study if self.study and self.study.tutorial in letters else None,
                "defaults": tuple(each for each in self.defaults if each.trial.dataset in datasets),
            }
        )

    def row(self, model: Classic | Default) -> Row:
        """Return the row of a tutorial's model or of our default."""
        trial = model.trial.shortened(model.quick_epochs) if self.quick else model.trial
        if isinstance(model, Classic) and model.repeated:
            return Row(model, tuple(trial.seeded(seed) for seed in range(self.seeds)))
        return Row(model, (trial,))

    def rows(self) -> list[Row]:
        """Return all rows except those that are only trained if others miss their aim."""
        models: list[Classic | Default] = [each for each in self.classics if not each.if_missed]
        return [self.row(model) for model in (*models, *self.defaults)]

    @property
    def sweep(self) -> Sweep | None:
        """The sweep that trains the study."""
        return self.study.sweep(self.seeds) if self.study else None


def load_plan(*, quick: bool = False) -> TutorialPlan:
    """Read the plan of the five tutorials."""
    fields = yaml.safe_load(PLAN_FILE.read_text(encoding="utf-8"))
    plan = TutorialPlan.model_validate(fields)
    return plan.model_copy(update={"quick": True, "seeds": QUICK_SEEDS}) if quick else plan
