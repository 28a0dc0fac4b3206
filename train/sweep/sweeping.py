"""Run a sweep: train what its study lacks, and store each result."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeAlias

from loupe.errors import Interrupted, InvalidUsage, ProgramFailed
from loupe.runtime.cores import available_cores
from loupe.runtime.processes import stop_on_signals
from train.config import recipe
from train.data.splits import SPLIT_SEED, Dataset
from train.sweep.study import SweepStudy, open_study
from train.sweep.sweeps import Result, Sweep
from train.sweep.trials import load, train_one, training_processes

POLL_SECONDS = 0.2  # how often to look for Ctrl-C

Watcher: TypeAlias = Callable[[int, int], None]  # trainings done, and in total


def run_sweep(
    sweep: Sweep,
    folder: Path,
    *,
    jobs: int | None = None,
    watch: Watcher = lambda done, total: None,
) -> tuple[Result, ...]:
    """Train everything that a sweep asks for and its folder lacks.

    Args:
        sweep: The request.
        folder: Created if it does not exist; see `train.sweep.study.open_study`.
        jobs: Parallel trainings, which share the cores; by default one per core.
        watch: Called at the start and after every training.

    Returns:
        All results, by setting and seed.

    Raises:
        LoupeError: If the request, the images or the folder cannot be used.
        SourceChanged: If the images change while it runs; the results so far stay.
        Interrupted: At Ctrl-C; the results so far stay.
        ProgramFailed: If a training process was killed.
    """
    with open_study(folder, sweep, _fingerprint(sweep)) as study:
        total = sweep.trainings
        jobs = min(jobs or available_cores(), max(1, total - len(study.results())))
        try:
            with training_processes(jobs) as pool:
                train_missing(study, pool, jobs, watch)
        except KeyboardInterrupt:
            done = len(study.results())
            raise Interrupted(
                f"Stopped after {done:,} of {total:,} trainings; their results are in '{folder}'. "
                "The same command continues.",
                code="sweep_interrupted",
                done=done,
            ) from None
        except BrokenProcessPool as error:
            fewer = f", with fewer than {jobs} --jobs if memory was short" if jobs > 1 else ""
            raise ProgramFailed(
                f"A training process was killed after {len(study.results()):,} of {total:,} "
                f"trainings. The same command continues{fewer}.",
                code="sweep_process_died",
            ) from error
        return study.results()


def train_missing(
    study: SweepStudy,
    pool: Executor,
    jobs: int = 1,
    watch: Watcher = lambda done, total: None,
) -> None:
    """Train what the study lacks, `jobs` trainings at a time; Ctrl-C and SIGTERM interrupt it."""
    sweep, stopping = study.sweep, threading.Event()
    train = partial(train_one, sweep.source, _load(sweep).content_digest())
    done, total = len(study.results()), sweep.trainings
    waiting, running = deque(study.unfinished()), set[Future[Result]]()
    watch(done, total)
    in_main_thread = threading.current_thread() is threading.main_thread()
    # An exception at any other moment could leave the study or the pool half changed.
    with stop_on_signals(stopping) if in_main_thread else nullcontext():
        while not stopping.is_set():
            # A search chooses between batches, so that timing does not influence its choice.
            if sweep.plan != "trials" or not (waiting or running):
                while len(waiting) + len(running) < jobs and (trainings := study.start_next()):
                    waiting.extend(trainings)
            with _ctrl_c_blocked():
                while waiting and len(running) < jobs:
                    running.add(pool.submit(train, *waiting.popleft()))
            if not running:
                return
            ended, running = wait(running, POLL_SECONDS, FIRST_COMPLETED)
            for future in ended:
                study.record(future.result())
                done += 1
                watch(done, total)
    raise KeyboardInterrupt


def with_epochs(sweep: Sweep) -> Sweep:
    """Add the epochs that `loupe train` would use for these images, unless the sweep has some."""
    if "epochs" in sweep.values:
        return sweep
    images, look = len(_load(sweep).train.labels), sweep.source.recipe_look
    epochs = recipe(sweep.architecture, images, look, batch_size=sweep.base.batch_size).epochs
    return sweep.model_copy(update={"values": {**sweep.values, "epochs": (epochs,)}})


def _load(sweep: Sweep) -> Dataset:
    """Load the images, once for the whole sweep."""
    return load(sweep.source, sweep.base.test_fraction, SPLIT_SEED)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Keep Ctrl-C from the processes that start in the block; they inherit the signal mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _fingerprint(sweep: Sweep) -> dict[str, str]:
    """Read the images, so that an unusable data set is refused before the folder is made."""
    dataset = _load(sweep)
    held_back = dataset.validation is not None or sweep.base.validation_fraction
    if sweep.plan == "trials" and not held_back:
        raise InvalidUsage(
            "--trials chooses by validation accuracy, and there is no validation split. "
            "Add one, for example with --validation 0.1.",
            code="invalid_training",
        )
    return dataset.fingerprint()
