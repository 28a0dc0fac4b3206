"""Training the classics row by row; every result is stored immediately."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from loupe.errors import Interrupted
from loupe.images.spec import Float32Array, UInt8Array
from train.config import FULL_BATCH
from train.data.datasets import Dataset
from train.data.source import DataSource
from train.data.splits import hold_out
from train.fit.fitting import fit
from train.fit.progress import ProgressBar
from train.fit.training import evaluate_model
from train.sweep.sweeping import run_sweep
from train.sweep.trials import load
from train.tensorflow import translate_memory_errors
from train.tutorials.plan import Row, Trial, TutorialPlan
from train.tutorials.results import Results, Speed, TrainedRow, TrialResult, current_versions

BATCH_SIZE = 100  # images; the tutorial compares it with single images

Loader: TypeAlias = Callable[[Trial], Dataset]


def loader(data_dir: Path | None) -> Loader:
    """Return a function that loads the data set of a trial, and caches it."""
    return lambda trial: load(
        DataSource(dataset=trial.dataset, data_dir=data_dir), trial.test_fraction, trial.split_seed
    )


def train_plan(plan: TutorialPlan, results: Results, load: Loader, console: Console) -> None:
    """Train what a plan asks for and the results lack, and print each row.

    Raises:
        Interrupted: At Ctrl-C; only the running training is lost.
        LoupeError: If a data set or the folder cannot be used.
    """
    rows = plan.rows()
    total = len(rows) + bool(plan.study)  # the study counts as one row
    for trial in {row.trials[0].dataset: row.trials[0] for row in rows}.values():
        load(trial)  # reports a missing data set before the first training
    try:
        for number, row in enumerate(rows, 1):
            _train_row(row, results, load, console, f"row {number} of {total}")
        for classic in plan.classics:
            if results.missed(classic.if_missed):
                position = f"extra row, as {classic.if_missed} misses its aim"
                _train_row(plan.row(classic), results, load, console, position)
        _train_study(plan, results, console, f"row {total} of {total}")
    except (KeyboardInterrupt, Interrupted):
        done = sum(results.row(row.model) is not None for row in rows)
        raise Interrupted(
            f"Stopped after {done} of {total} rows, which are kept. The same command continues.",
            code="classics_interrupted",
            done=done,
        ) from None


def _train_row(row: Row, results: Results, load: Loader, console: Console, position: str) -> None:
    missing = [trial for trial in row.trials if trial not in results.trials]
    if missing:
        console.print(f"{position}: {row.name} …")
    for trial in missing:
        results.add(train_trial(trial, load(trial), console, quick=results.plan.quick))
    trained = results.row(row.model)
    if trained:
        kept = "" if missing else " (trained earlier)"
        console.print(f"{position}: {row.name}: {describe(trained)}{kept}")


def _train_study(plan: TutorialPlan, results: Results, console: Console, position: str) -> None:
    """Train the tables of one setting at a time, in parallel processes."""
    sweep, study = plan.sweep, plan.study
    if sweep is None or study is None:
        return
    title = f"{position}: {study.tutorial}, one setting at a time"
    with console.status("") as status:
        run_sweep(
            sweep,
            results.study_folder(sweep),
            watch=lambda done, total: status.update(f"{title}: {done} of {total} trainings"),
        )
    console.print(f"{title}: {sweep.trainings} trainings are done")


def describe(row: TrainedRow) -> str:
    """Return a row's figures in one line."""
    seeds = len(row.results)
    spread = f" ± {row.accuracy.deviation:.4f} over {seeds} seeds" if seeds > 1 else ""
    seconds = row.seconds_per_epoch
    duration = f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds * 1000:.2g} ms"
    return f"test accuracy {row.accuracy.mean:.4f}{spread}, {duration} per epoch"


def train_trial(
    trial: Trial, dataset: Dataset, console: Console, *, quick: bool = False
) -> TrialResult:
    """Train and evaluate one model, which is not kept."""
    keras.utils.clear_session()  # frees the last model
    config = trial.config
    dataset = hold_out(dataset, config)
    # Full-batch trainings take seconds, and there are a hundred of them.
    callbacks = [] if config.batch_size == FULL_BATCH else [ProgressBar(console, config)]
    with translate_memory_errors():
        fitted = fit(dataset, config, callbacks=callbacks)
        evaluation = evaluate_model(dataset, config, fitted)
    assert evaluation.train
    assert evaluation.verdict
    return TrialResult(
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


def compare_batches(model: keras.Model, images: UInt8Array, batch_size: int = BATCH_SIZE) -> Speed:
    """Predict images one at a time and in batches, and compare classes and durations.

    Args:
        model: Maps uint8 images to logits.
        images: uint8, shape `(n, height, width)`; `n` at least 1.
        batch_size: Images per batch.
    """
    shape = tf.TensorSpec((None, *images.shape[1:]), tf.uint8)
    predict = tf.function(lambda batch: model(batch, training=False), input_signature=[shape])
    alone, alone_seconds = _measure(predict, images, 1)
    batched, batched_seconds = _measure(predict, images, batch_size)
    return Speed(
        images=len(images),
        batch_size=batch_size,
        differing=int(np.count_nonzero(alone.argmax(axis=1) != batched.argmax(axis=1))),
        alone_seconds=alone_seconds,
        batched_seconds=batched_seconds,
    )


def _measure(
    predict: Callable[[UInt8Array], tf.Tensor], images: UInt8Array, size: int
) -> tuple[Float32Array, float]:
    """Return the logits, float32 `(n, classes)`, and the seconds that batches of `size` took."""
    predict(images[:size])  # warm-up
    started = time.monotonic()
    batches = [images[first : first + size] for first in range(0, len(images), size)]
    logits = [predict(batch).numpy() for batch in batches]
    return np.concatenate(logits), time.monotonic() - started
