"""Training the classics: row by row, every training kept as soon as it is done."""

import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from loupe.errors import Interrupted
from loupe.images.spec import Float32Array, UInt8Array
from loupe.old_errors.train import ClassicsInterrupted
from train.config import FULL_BATCH
from train.data.datasets import Dataset, load_dataset
from train.evaluate.verdict import percent
from train.fit.fitting import fit
from train.fit.progress import ProgressBar
from train.fit.training import evaluate_model, hold_out
from train.sweep.sweeping import run_sweep
from train.tutorials.plan import Plan, Row, Trial
from train.tutorials.results import (
    Result,
    Results,
    Speed,
    Summary,
    current_versions,
    missed,
    summarize,
)

BATCH = 100  # images; what the tutorial compares to one at a time
CACHED = 4  # data sets that stay in memory

Loader: TypeAlias = Callable[[Trial], Dataset]


def loader(data_dir: Path | None) -> Loader:
    """Loads the data set of a trial, once where several have the same."""

    @lru_cache(CACHED)
    def load(name: str, test_fraction: float | None, split_seed: int) -> Dataset:
        return load_dataset(name, data_dir, test_fraction=test_fraction, split_seed=split_seed)

    return lambda trial: load(trial.dataset, trial.test_fraction, trial.split_seed)


class Course:
    """Takes a plan from its first row to its last."""

    def __init__(self, plan: Plan, results: Results, load: Loader, console: Console) -> None:
        """`results` is what is done already, and where each result goes; the console is told which row is in hand."""
        self._plan = plan
        self._results = results
        self._load = load
        self._console = console
        self._known = results.trials(quick=plan.quick)
        self._rows = plan.rows()
        self._count = len(self._rows) + bool(plan.study)  # which counts as one

    def run(self) -> None:
        """Train what is not trained yet.

        Raises:
            ClassicsInterrupted: At Ctrl-C; only the training in hand is lost.
            LoupeError: If a data set cannot be had, or a result cannot be kept.
        """
        for trial in {row.trials[0].dataset: row.trials[0] for row in self._rows}.values():
            self._load(trial)  # what is missing is told at once, not after an hour
        try:
            for number, row in enumerate(self._rows, 1):
                self._train(row, f"row {number} of {self._count}")
            for classic in self._plan.classics:
                if missed(self._plan, classic.if_missed, self._known):
                    self._train(
                        self._plan.of_classic(classic),
                        f"{classic.if_missed} is below its aim, so one more",
                    )
            self._train_study(f"row {self._count} of {self._count}")
        except (KeyboardInterrupt, Interrupted):
            done = sum(summarize(row, self._known) is not None for row in self._rows)
            raise ClassicsInterrupted(done, self._count) from None

    def _train(self, row: Row, place: str) -> None:
        """Train those trials of a row that are not known yet, and say what the row came to."""
        missing = [trial for trial in row.trials if trial not in self._known]
        if missing:
            self._say(f"{place}: {row.name} …")
        for trial in missing:
            result = train_trial(trial, self._load(trial), self._console, quick=self._plan.quick)
            self._results.add(result)
            self._known[trial] = result
        summary = summarize(row, self._known)
        if summary:
            self._say(
                f"{place}: {row.name}: {in_words(summary)}{'' if missing else ' (kept from before)'}"
            )

    def _train_study(self, place: str) -> None:
        """Train the tables of one setting at a time, as many of their trainings at once as there are cores."""
        sweep, study = self._plan.sweep, self._plan.study
        if sweep is None or study is None:
            return
        with self._console.status("") as status:

            def watch(done: int, total: int) -> None:
                status.update(
                    f"{place}: {study.tutorial}, one setting at a time: {done} of {total} trainings"
                )

            trainings = run_sweep(sweep, self._results.of_study(sweep), watch=watch)
        self._say(
            f"{place}: {study.tutorial}, one setting at a time: {len(trainings)} trainings are done"
        )

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def in_words(summary: Summary) -> str:
    """What a row came to, in a line."""
    spread = (
        f" ± {summary.spread * 100:.2f} over {len(summary.results)} seeds"
        if summary.spread is not None
        else ""
    )
    return f"test accuracy {percent(summary.accuracy, 2)}{spread}, {seconds(summary.seconds_per_epoch)} per epoch"


def seconds(duration: float) -> str:
    """A duration, in seconds or, if short, in milliseconds."""
    return f"{duration:.1f} s" if duration >= 0.1 else f"{duration * 1000:.2g} ms"


def train_trial(trial: Trial, dataset: Dataset, console: Console, *, quick: bool = False) -> Result:
    """Train and measure one model, which is then forgotten."""
    keras.utils.clear_session()  # or a hundred models in a row would all stay in memory
    config = trial.config
    dataset = hold_out(dataset, config)
    shown = config.batch_size != FULL_BATCH  # those take seconds, and a hundred of them are trained
    fitted = fit(dataset, config, callbacks=[ProgressBar(console, config)] if shown else [])
    evaluation = evaluate_model(dataset, config, fitted)
    return Result(
        trial=trial,
        quick=quick,
        versions=current_versions(),
        parameters=fitted.model.count_params(),
        test_images=evaluation.test.images,
        test_accuracy=evaluation.test.accuracy,
        test_loss=evaluation.test.raw_loss,
        train_accuracy=evaluation.train.accuracy,
        calibration_error=evaluation.calibration.error_after,
        fit=evaluation.verdict.fit,
        verdict=evaluation.verdict.sentence,
        epochs=fitted.history[-1].number,
        best_epoch=fitted.best_epoch,
        seconds=fitted.seconds,
        speed=compare_batches(fitted.model, dataset.test.images) if trial.compare_batches else None,
    )


def compare_batches(model: keras.Model, images: UInt8Array, batch_size: int = BATCH) -> Speed:
    """Answer images one at a time and in batches: whether the classes are the same, and what each way takes.

    Args:
        model: From uint8 images to logits.
        images: uint8, shape `(n, height, width)`; `n` at least 1.
        batch_size: Images of a batch.
    """
    shape = tf.TensorSpec((None, *images.shape[1:]), tf.uint8)
    answer = tf.function(lambda batch: model(batch, training=False), input_signature=[shape])
    alone, alone_seconds = _timed(answer, images, 1)
    batched, batched_seconds = _timed(answer, images, batch_size)
    return Speed(
        images=len(images),
        batch_size=batch_size,
        differing=int(np.count_nonzero(alone.argmax(axis=1) != batched.argmax(axis=1))),
        alone_seconds=alone_seconds,
        batched_seconds=batched_seconds,
    )


def _timed(
    answer: Callable[[UInt8Array], tf.Tensor], images: UInt8Array, size: int
) -> tuple[Float32Array, float]:
    """Logits, float32 `(n, classes)`, and the seconds it took to have them by batches of a size."""
    answer(images[:size])  # the first call is slow
    started = time.monotonic()
    logits = [answer(images[first : first + size]).numpy() for first in range(0, len(images), size)]
    return np.concatenate(logits), time.monotonic() - started
