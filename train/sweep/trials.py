"""The trainings of a sweep, several at once, each in a process that trains one after the other."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

import numpy as np

from loupe.errors import LoupeError
from loupe.runtime.cores import available_cores
from train.data.datasets import Dataset
from train.data.splits import SPLIT_SEED, Split
from train.evaluate.calibration import log_probabilities
from train.runs import DataSource
from train.sweep.sweeps import Result, Scores, Setting
from train.tensorflow import import_tensorflow

DATASETS_KEPT = 32  # in memory, per process: one for each seed and test fraction of those data sets that are split here
MEASURED_AT_ONCE = 512  # images; only a matter of speed


class Trainers:
    """Processes that train; they end with the block of `trainers`, however it ends."""

    def __init__(self, pool: ProcessPoolExecutor, source: DataSource) -> None:
        self._pool = pool
        self._source = source

    def train(self, trainings: Sequence[tuple[Setting, int]]) -> Iterator[Result]:
        """Train settings with their seeds; results come as they end.

        Raises:
            BrokenProcessPool: If one of the processes was killed.
        """
        with _ctrl_c_blocked():
            waiting: list[Future[Result]] = [
                self._pool.submit(train_one, self._source, setting, seed)
                for setting, seed in trainings
            ]
        for ended in as_completed(waiting):
            yield ended.result()


@contextmanager
def trainers(source: DataSource, jobs: int) -> Iterator[Trainers]:
    """So many processes, which share the cores evenly; at an exception, Ctrl-C among them, they are killed at once."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(max(1, available_cores() // jobs),),
    )
    try:
        yield Trainers(pool, source)
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def train_one(source: DataSource, setting: Setting, seed: int) -> Result:
    """Train a setting with a seed, which also splits the images where they come without a test split."""
    import keras
    import tensorflow as tf

    keras.backend.clear_session()  # or every training leaves its graph behind
    try:
        dataset = load(source, setting.test_fraction, seed if source.split_here else SPLIT_SEED)
        return Result(setting, seed, _scores(dataset, setting, seed))
    except (LoupeError, tf.errors.OpError, MemoryError) as error:
        return Result(setting, seed, None, str(error) or type(error).__name__)


@lru_cache(DATASETS_KEPT)
def load(source: DataSource, test_fraction: float | None, split_seed: int) -> Dataset:
    """The images, which a process reads once."""
    return source.load(test_fraction=test_fraction, split_seed=split_seed)


def _scores(dataset: Dataset, setting: Setting, seed: int) -> Scores:
    from train.fit.fitting import fit
    from train.fit.training import hold_out

    config = replace(setting.config, seed=seed)
    dataset = hold_out(dataset, config)
    fitted = fit(dataset, config)

    def measured(split: Split) -> tuple[float, float]:
        """Accuracy, and mean cross-entropy in nats."""
        starts = range(0, len(split.labels), MEASURED_AT_ONCE)
        pieces = [split.images[start : start + MEASURED_AT_ONCE] for start in starts]
        # Called, the model has answered before `predict` would have made its graph.
        logits = np.concatenate(
            [np.asarray(fitted.model(images, training=False)) for images in pieces]
        )
        of_label = log_probabilities(logits)[np.arange(len(split.labels)), split.labels]
        return float((logits.argmax(axis=1) == split.labels).mean()), -float(of_label.mean())

    test_accuracy, test_loss = measured(dataset.test)
    return Scores(
        train_accuracy=measured(dataset.train.sample(seed=0))[0],
        validation_accuracy=measured(dataset.validation)[0] if dataset.validation else None,
        test_accuracy=test_accuracy,
        test_loss=test_loss,
        trained_epochs=fitted.history[-1].number,
        seconds=fitted.seconds,
    )


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Processes that are begun meanwhile never see Ctrl-C, which is for their parent to answer; the parent sees it afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int) -> None:
    """In a new process: end when the parent ends, and keep to so many cores."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import_tensorflow()
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it warns of functions made anew, as for every training here
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)  # the processes share it


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)
