"""The trainings of a sweep, in parallel processes."""

import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np

from loupe.errors import LoupeError, SourceChanged
from loupe.runtime.cores import available_cores
from train.config import Setting
from train.data.datasets import Dataset
from train.data.source import DataSource
from train.data.splits import SPLIT_SEED, Split, hold_out
from train.evaluate.evaluation import Predictions, SplitMetrics, split_metrics
from train.sweep.sweeps import Result, Scores
from train.tensorflow import import_tensorflow, translate_memory_errors

MAX_CACHED_DATASETS = 32  # per process; one for each seed and test fraction of data sets split here
MEASURE_BATCH_SIZE = 512  # images; it affects only speed


@contextmanager
def training_processes(jobs: int) -> Iterator[Executor]:
    """Start processes that share the cores evenly; an exception, also Ctrl-C, kills them."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, available_cores() // jobs),),
    )
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def train_one(source: DataSource, content_digest: str, setting: Setting, seed: int) -> Result:
    """Train a setting with a seed, which also splits images that come without a test split.

    Raises:
        SourceChanged: If the images do not have this digest.
    """
    import keras
    import tensorflow as tf

    keras.backend.clear_session()  # frees the graph of the last training
    try:
        split_seed = seed if source.split_here else SPLIT_SEED
        dataset = _load_unchanged(source, setting.test_fraction, split_seed, content_digest)
        with translate_memory_errors():
            return Result(setting, seed, _scores(dataset, setting, seed))
    except SourceChanged:
        raise
    except (LoupeError, tf.errors.OpError) as error:
        return Result(setting, seed, None, str(error))


@lru_cache(MAX_CACHED_DATASETS)
def load(source: DataSource, test_fraction: float | None, split_seed: int) -> Dataset:
    """Load the images, once per process."""
    return source.load(test_fraction=test_fraction, split_seed=split_seed)


@lru_cache(MAX_CACHED_DATASETS)
def _load_unchanged(
    source: DataSource, test_fraction: float | None, split_seed: int, content_digest: str
) -> Dataset:
    """Load the images, unless they have changed since the sweep began, when they could be read."""
    try:
        dataset = load(source, test_fraction, split_seed)
    except LoupeError as error:
        if error.code == "impossible_fraction":
            raise
        raise _changed(str(error)) from error
    if dataset.content_digest() != content_digest:
        raise _changed("Other images were found.")
    return dataset


def _changed(reason: str) -> SourceChanged:
    return SourceChanged(
        f"The images have changed since the sweep began. {reason} The results so far are of the "
        "images before: restore those and repeat the command, or choose another --out."
    )


def _scores(dataset: Dataset, setting: Setting, seed: int) -> Scores:
    from train.fit.fitting import fit

    config = replace(setting, seed=seed)
    dataset = hold_out(dataset, config)
    fitted = fit(dataset, config)

    def measure(split: Split) -> SplitMetrics:
        starts = range(0, len(split.labels), MEASURE_BATCH_SIZE)
        batches = [split.images[start : start + MEASURE_BATCH_SIZE] for start in starts]
        # Calling the model is faster than `predict`, which first builds a graph.
        logits = [np.asarray(fitted.model(images, training=False)) for images in batches]
        return split_metrics(Predictions(np.concatenate(logits), split.labels), temperature=1.0)

    test = measure(dataset.test)
    return Scores(
        train_accuracy=measure(dataset.train.sample(seed=0)).accuracy,
        validation_accuracy=measure(dataset.validation).accuracy if dataset.validation else None,
        test_accuracy=test.accuracy,
        test_loss=test.loss,
        trained_epochs=fitted.history[-1].number,
        seconds=fitted.seconds,
    )


def _begin(threads: int) -> None:
    """Prepare a new process: it ends with its parent, and uses that many cores."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # TensorFlow warns of the graph that each training builds
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # the processes share it


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
