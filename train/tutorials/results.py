"""Results of the classics: one JSON line per trial, and the folder of a sweep."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, ValidationError

from train.sweep.study import read_results, translate_write_errors
from train.sweep.sweeps import Result, Spread, Sweep
from train.tutorials.plan import Row, Trial, TutorialPlan

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
class RowSummary:
    """The figures of a row over its trials.

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
    def first(self) -> TrialResult:
        """The first trial, for figures that have no mean."""
        return self.results[0]


@dataclass(frozen=True)
class KnownResults:
    """All results that belong to a plan.

    Attributes:
        trials: Of the models and our defaults.
        study: Of the tables of one setting at a time.
    """

    trials: Mapping[Trial, TrialResult]
    study: tuple[Result, ...] = ()

    def summarize(self, row: Row) -> RowSummary | None:
        """Summarize a row; `None` until all its trials are done."""
        found = [self.trials[trial] for trial in row.trials if trial in self.trials]
        return RowSummary(tuple(found)) if len(found) == len(row.trials) else None

    def missed(self, plan: TutorialPlan, key: str | None) -> bool:
        """Return whether a classic was trained in full and misses its aim."""
        for classic in plan.classics:
            if classic.key == key and not plan.quick:
                summary = self.summarize(plan.row(classic))
                return summary is not None and summary.accuracy.mean < classic.aim
        return False


class ResultsFolder:
    """The folder that keeps the results, so that nothing is trained twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / TRIALS_FILE

    def load(self, plan: TutorialPlan) -> KnownResults:
        """Read the results of a plan that were made with the current versions."""
        sweep = plan.sweep
        study = read_results(self.study_folder(sweep), sweep) if sweep else ()
        return KnownResults(self.trials(quick=plan.quick), study)

    def study_folder(self, sweep: Sweep) -> Path:
        """Return the folder of a sweep, which depends on its settings and the versions."""
        request = f"{sweep.model_dump_json()} {sorted(current_versions().items())}"
        digest = hashlib.sha256(request.encode()).hexdigest()[:12]
        return self._folder / f"{sweep.source.dataset}-{digest}"

    def trials(self, *, quick: bool) -> dict[Trial, TrialResult]:
        """Read the results of trials, without lines that a crash truncated."""
        if not self._file.exists():
            return {}
        versions = current_versions()
        results = map(_parse, self._file.read_text(encoding="utf-8").splitlines())
        return {
            result.trial: result
            for result in results
            if result and (result.quick, result.versions) == (quick, versions)
        }

    def add(self, result: TrialResult) -> None:
        """Append a result, or raise `NotWritable`."""
        with translate_write_errors(self._file):
            self._folder.mkdir(parents=True, exist_ok=True)
            # The line break comes first, so that a truncated line does not damage the next one.
            with self._file.open("a", encoding="utf-8") as file:
                file.write(f"\n{result.model_dump_json()}")


def _parse(line: str) -> TrialResult | None:
    try:
        return TrialResult.model_validate_json(line)
    except ValidationError:
        return None
