"""Results of the classics: one JSON line per trial, and the folder of a sweep."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, ValidationError

from train.sweep.study import read_results, translate_write_errors
from train.sweep.sweeps import Result, Spread, Sweep
from train.tutorials.plan import Classic, Default, Row, Trial, TutorialPlan

TRIALS_FILE = "trials.jsonl"
PACKAGES = ("tensorflow", "keras")  # the versions that figures depend on


class Speed(BaseModel):
    """The time to predict the test split, one image at a time and in batches.

    Attributes:
        differing: Images with another class in the batch.
    """

    model_config = ConfigDict(frozen=True)

    images: int
    batch_size: int
    differing: int
    alone_seconds: float
    batched_seconds: float

    @property
    def gain(self) -> float:
        """Time of an image alone, divided by its time in a batch."""
        return self.alone_seconds / self.batched_seconds


class TrialResult(BaseModel):
    """The figures of a trial.

    Attributes:
        trial: The settings; with `quick` and `versions`, they identify the result.
        test_loss: Mean cross-entropy in nats, before temperature scaling, as tutorials report it.
        calibration_error: Expected calibration error, 0..1, after temperature scaling if there was
            a validation split.
        fit: `well fitted`, `over-fitted` or `under-fitted`.
        verdict: A sentence with the reason.
        epochs: Number of epochs trained.
        best_epoch: The epoch whose weights were measured.
        seconds: Duration of the training, with its start.
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


def current_versions() -> dict[str, str]:
    """Return the versions of the packages that figures depend on."""
    return {package: version(package) for package in PACKAGES}


@dataclass(frozen=True)
class TrainedRow(Row):
    """A row whose trials are all done.

    Attributes:
        results: One result, or one per seed.
    """

    results: tuple[TrialResult, ...]

    @property
    def accuracy(self) -> Spread:
        """Test accuracy, 0..1."""
        return Spread.of([result.test_accuracy for result in self.results])

    @property
    def train_accuracy(self) -> float:
        """Mean accuracy, 0..1, on the training images."""
        return fmean(result.train_accuracy for result in self.results)

    @property
    def loss(self) -> float:
        """Mean test loss in nats."""
        return fmean(result.test_loss for result in self.results)

    @property
    def seconds_per_epoch(self) -> float:
        """Mean over all epochs and trials, with the start of the trainings."""
        return fmean(result.seconds / result.epochs for result in self.results)

    @property
    def aim_reached(self) -> bool:
        """False if the model is a tutorial's, and its test accuracy is below the aim."""
        return not isinstance(self.model, Classic) or self.accuracy.mean >= self.model.aim

    @property
    def first(self) -> TrialResult:
        """The first trial, for figures that have no mean."""
        return self.results[0]


class Results:
    """The results that belong to a plan, in a folder, so that nothing is trained twice.

    Only results of the current versions count, with as many epochs as the plan asks for.

    Attributes:
        trials: Of the models and our defaults.
    """

    def __init__(self, folder: Path, plan: TutorialPlan) -> None:
        self.plan = plan
        self._folder = folder
        self._file = folder / TRIALS_FILE
        self.trials = {result.trial: result for result in self._read()}

    def add(self, result: TrialResult) -> None:
        """Append a result, or raise `NotWritable`."""
        with translate_write_errors(self._file):
            self._folder.mkdir(parents=True, exist_ok=True)
            # The line break comes first, so that a truncated line does not damage the next one.
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"\n{result.model_dump_json()}")
        self.trials[result.trial] = result

    def row(self, model: Classic | Default) -> TrainedRow | None:
        """Return the row of a model; `None` until all its trials are done."""
        row = self.plan.row(model)
        if any(trial not in self.trials for trial in row.trials):
            return None
        return TrainedRow(model, row.trials, tuple(self.trials[trial] for trial in row.trials))

    def missed(self, key: str | None) -> bool:
        """Return whether a classic was trained in full and misses its aim."""
        for classic in self.plan.classics:
            if classic.key == key and not self.plan.quick:
                row = self.row(classic)
                return row is not None and not row.aim_reached
        return False

    def study(self) -> tuple[Result, ...]:
        """Return the results of the tables of one setting at a time."""
        sweep = self.plan.sweep
        return read_results(self.study_folder(sweep), sweep) if sweep else ()

    def study_folder(self, sweep: Sweep) -> Path:
        """Return the folder of a sweep, which depends on its settings and the versions."""
        request = f"{sweep.model_dump_json()} {sorted(current_versions().items())}"
        digest = hashlib.sha256(request.encode()).hexdigest()[:12]
        return self._folder / f"{sweep.source.dataset}-{digest}"

    def _read(self) -> Iterator[TrialResult]:
        """Yield the stored results that count; skip lines that a crash truncated."""
        wanted = (self.plan.quick, current_versions())
        lines = self._file.read_text(encoding="utf-8").splitlines() if self._file.exists() else []
        for line in lines:
            with suppress(ValidationError):
                result = TrialResult.model_validate_json(line)
                if (result.quick, result.versions) == wanted:
                    yield result
