"""Run a sweep: what is missing in its folder is trained, and written down as it ends."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from loupe.old_errors.train import InvalidTraining, SweepInterrupted, SweepProcessDied
from loupe.runtime.cores import available_cores
from train.config import recipe
from train.data.datasets import Dataset
from train.data.splits import SPLIT_SEED
from train.sweep.folder import SweepFolder
from train.sweep.sweeps import Result, Setting, Sweep
from train.sweep.trials import load, trainers

Training = tuple[Setting, int]  # with its seed
Watcher = Callable[[Sequence[Result], int], None]  # the results so far, and how many there will be


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    jobs: int | None = None,
    watch: Watcher = lambda results, total: None,
) -> tuple[Result, ...]:
    """Train everything a sweep asks for, going on where its folder stands.

    Args:
        sweep: What is to be tried.
        folder: For `sweep.json` and `results.csv`; is made if it is not there.
        jobs: Trainings at once, which share the cores; as many as there are cores if nothing is said.
        watch: Is told at the beginning, and after every training.

    Returns:
        The results, in the order in which the trainings ended.

    Raises:
        LoupeError: If the sweep or the images are not as they must be, or the results cannot be written.
        SweepInterrupted: At Ctrl-C.
        SweepProcessDied: If a process was killed.
    """
    sweep.check()
    data = _check_images(sweep)
    place = SweepFolder.open(folder, sweep, data)
    total = trainings_of(sweep)
    jobs = min(jobs or available_cores(), max(1, total - len(place.results())))
    try:
        with trainers(sweep.source, jobs) as processes:
            return train_missing(sweep, place, processes.train, jobs, watch)
    except KeyboardInterrupt:
        raise SweepInterrupted(str(folder), len(place.results()), total) from None
    except BrokenProcessPool as error:
        raise SweepProcessDied(len(place.results()), total, jobs) from error


def train_missing(
    sweep: Sweep,
    place: SweepFolder,
    train: Callable[[Sequence[Training]], Iterable[Result]],
    jobs: int = 1,
    watch: Watcher = lambda results, total: None,
) -> tuple[Result, ...]:
    """Train what a sweep's folder lacks, so many at once, and write each result down as it comes; see `run_sweep`."""
    results = list(place.results())
    total = trainings_of(sweep)
    watch(results, total)
    while missing := _missing(sweep, results, total, jobs):
        for result in train(missing):
            place.append(result)
            results.append(result)
            watch(results, total)
    return tuple(results)


def trainings_of(sweep: Sweep) -> int:
    """How many trainings a sweep has."""
    settings = len(sweep.settings())
    return (min(sweep.trials, settings) if sweep.plan == "trials" else settings) * sweep.seeds


def with_epochs(sweep: Sweep) -> Sweep:
    """The sweep with as many epochs as `loupe train` would train on its images, unless it says how many."""
    sweep.check()
    if "epochs" in sweep.values:
        return sweep
    images = load(sweep.source, sweep.base.test_fraction, SPLIT_SEED).train.labels
    epochs = recipe(sweep.architecture, len(images), batch_size=sweep.base.config.batch_size).epochs
    return sweep.model_copy(update={"values": {**sweep.values, "epochs": (epochs,)}})


def _missing(sweep: Sweep, results: Sequence[Result], total: int, jobs: int) -> list[Training]:
    """What to train next, settings in their order: all that is left, or of a search as much as keeps the processes busy."""
    done = {(result.setting, result.seed) for result in results}
    settings: Sequence[Setting] = sweep.settings()
    if sweep.plan == "trials":
        settings = _begun(sweep, results)
        if all((setting, seed) in done for setting in settings for seed in range(sweep.seeds)):
            from train.sweep.search import suggest

            left = total // sweep.seeds - len(settings)
            settings = suggest(sweep, results, min(left, -(-jobs // sweep.seeds)))
    return [
        (setting, seed)
        for setting in settings
        for seed in range(sweep.seeds)
        if (setting, seed) not in done
    ]


def _begun(sweep: Sweep, results: Sequence[Result]) -> list[Setting]:
    """The settings that a search has picked, as far as any training of them ended."""
    return list(dict.fromkeys(result.setting for result in results))


def _check_images(sweep: Sweep) -> str:
    """Read the images, so that what is wrong with them is told at once; gives their digest."""
    fraction = sweep.base.test_fraction
    dataset: Dataset = load(sweep.source, fraction, SPLIT_SEED)
    held_back = dataset.validation is not None or sweep.base.config.validation_fraction
    if sweep.plan == "trials" and not held_back:
        raise InvalidTraining(
            "--trials",
            "a validation split to choose by, as with --validation 0.1; a test split is for the last figure",
            "none",
        )
    return f"{dataset.train.digest()[:12]} {dataset.test.digest()[:12]}"
