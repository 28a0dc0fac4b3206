"""What the classics came to: a line of JSON per trial and a sweep's folder, kept, so that nothing is trained twice."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from loupe.old_errors.train import FileNotWritable
from train.sweep.results import read_results
from train.sweep.sweeps import Result as Training
from train.sweep.sweeps import Sweep
from train.tutorials.plan import Plan, Row, Trial

RESULTS_FILE = "trials.jsonl"
PACKAGES = ("tensorflow", "keras")  # others hardly move a figure


class Speed(BaseModel):
    """How much batches help: the test split answered image by image, and in batches."""

    model_config = ConfigDict(frozen=True)

    images: int
    batch_size: int
    differing: int
    alone_seconds: float
    batched_seconds: float

    @property
    def gain(self) -> float:
        """How many times less an image takes in a batch."""
        return self.alone_seconds / self.batched_seconds


class Result(BaseModel):
    """What a trial came to.

    Attributes:
        trial: Its settings; with `quick` and `versions` they are what it is found by.
        quick: Whether it was cut short.
        test_loss: Mean cross-entropy, in nats, before temperature scaling, as tutorials report it.
        calibration_error: Expected, 0..1, after temperature scaling where there was a validation split.
        fit: The verdict in a word or two.
        verdict: The verdict in a sentence.
        epochs: Trained.
        best_epoch: Whose weights were measured.
        seconds: Of training, the start included.
    """

    model_config = ConfigDict(frozen=True)

    trial: Trial
    quick: bool
    versions: dict[str, str]
    parameters: int
    test_images: int
    test_accuracy: float
    test_loss: float
    train_accuracy: float
    calibration_error: float
    fit: str
    verdict: str
    epochs: int
    best_epoch: int
    seconds: float
    speed: Speed | None = None

    @property
    def seconds_per_epoch(self) -> float:
        """The mean over all epochs, the start included."""
        return self.seconds / self.epochs


def current_versions() -> dict[str, str]:
    """Of the packages that the figures depend on."""
    return {package: version(package) for package in PACKAGES}


@dataclass(frozen=True)
class Figures:
    """All that is known.

    Attributes:
        trials: Of the models and of our default.
        study: Of the tables of one setting at a time.
    """

    trials: Mapping[Trial, Result]
    study: tuple[Training, ...] = ()


class Results:
    """The folder of results."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / RESULTS_FILE

    def load(self, plan: Plan) -> Figures:
        """All that belongs to a plan, with the packages as they are now."""
        sweep = plan.sweep
        study = read_results(self.of_study(sweep), sweep) if sweep else ()
        return Figures(self.trials(quick=plan.quick), study)

    def of_study(self, sweep: Sweep) -> Path:
        """The folder of a sweep: its own for other settings, and for other versions of the packages."""
        asked = f"{sweep.model_dump_json()} {sorted(current_versions().items())}"
        return (
            self._folder
            / f"{sweep.source.dataset}-{hashlib.sha256(asked.encode()).hexdigest()[:12]}"
        )

    def trials(self, *, quick: bool) -> dict[Trial, Result]:
        """Those of the packages as they are now; a line that was not written to its end is passed over."""
        try:
            lines = self._file.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        versions = current_versions()
        results = (_parsed(line) for line in lines)
        return {
            result.trial: result
            for result in results
            if result and (result.quick, result.versions) == (quick, versions)
        }

    def add(self, result: Result) -> None:
        """Write one down.

        Raises:
            FileNotWritable: If that cannot be done.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            # The newline comes first, so that a line which was cut off spoils no other.
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"\n{result.model_dump_json()}")
        except OSError as error:
            raise FileNotWritable(str(self._file), str(error)) from error


@dataclass(frozen=True)
class Summary:
    """A row's figures over all its trials.

    Attributes:
        results: One or, where a trial is repeated, one per seed.
    """

    results: tuple[Result, ...]

    @property
    def accuracies(self) -> list[float]:
        """Test accuracies, 0..1."""
        return [result.test_accuracy for result in self.results]

    @property
    def accuracy(self) -> float:
        """Their mean."""
        return float(np.mean(self.accuracies))

    @property
    def spread(self) -> float | None:
        """Their standard deviation as estimated from so few; `None` of a single one."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.results) > 1 else None

    @property
    def train_accuracy(self) -> float:
        """Mean accuracy, 0..1, on the images it was trained on."""
        return float(np.mean([result.train_accuracy for result in self.results]))

    @property
    def loss(self) -> float:
        """Mean test loss."""
        return float(np.mean([result.test_loss for result in self.results]))

    @property
    def seconds_per_epoch(self) -> float:
        """Mean over the trials."""
        return float(np.mean([result.seconds_per_epoch for result in self.results]))

    @property
    def first(self) -> Result:
        """The first trial's, for what is no mean."""
        return self.results[0]


def summarize(row: Row, results: Mapping[Trial, Result]) -> Summary | None:
    """A row's figures, once all its trials are done."""
    found = [results.get(trial) for trial in row.trials]
    done = tuple(result for result in found if result)
    return Summary(done) if len(done) == len(found) else None


def missed(plan: Plan, key: str | None, results: Mapping[Trial, Result]) -> bool:
    """Whether a classic was trained in full and is not as good as it should be."""
    classic = next((classic for classic in plan.classics if classic.key == key), None)
    summary = summarize(plan.of_classic(classic), results) if classic else None
    return bool(classic and summary and not plan.quick and summary.accuracy < classic.aim)


def _parsed(line: str) -> Result | None:
    try:
        return Result.model_validate_json(line)
    except ValidationError:
        return None
