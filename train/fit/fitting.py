"""Fit a model to a data set: batches in a seeded order, the best epoch kept, every epoch written down."""

import math
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

import keras
import numpy as np
import tensorflow as tf

from loupe.old_errors.train import TrainingDiverged, TrainingInterrupted
from train.config import FULL_BATCH, TrainConfig
from train.data.datasets import Dataset, Split
from train.evaluate.evaluation import Epoch
from train.fit.augmentation import BY_LOOK, augment, mirrored, mix
from train.fit.checkpoints import Checkpoints
from train.fit.optimizers import optimizer
from train.nets import architectures
from train.nets.finishing import finished
from train.nets.precision import bfloat16_convolutions

REPORTS = 100  # about so many where an epoch is a single step: reporting one takes longer than training it
VALIDATED = 512  # images at once; only a matter of speed
PREFETCHED = 4  # batches; made while the one before is trained on


@dataclass(frozen=True)
class Fitted:
    """A trained model and how it came about.

    Attributes:
        model: From uint8 `(n, height, width)` to float32 logits `(n, classes)`, with the weights of the best epoch. Trained on mirrored
            images, it answers with the mean over the image and its mirror image; with `shifted_views`, over each of them shifted too.
        history: Every epoch that was reported, in order.
        best_epoch: Number of the epoch whose weights the model has.
        seconds: What training took, over all its sittings.
    """

    model: keras.Model
    history: tuple[Epoch, ...]
    best_epoch: int
    seconds: float


def fit(
    dataset: Dataset,
    config: TrainConfig,
    *,
    folder: Path | None = None,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> Fitted:
    """Train a model; it goes on where the folder's last checkpoint stands.

    Args:
        dataset: Its validation split chooses the best epoch. Without one, the last epoch is the best.
        config: The hyperparameters.
        folder: Where a checkpoint is written after every epoch; without it nothing is.
        callbacks: Are told of every batch and epoch, after the checkpoint is written.

    Raises:
        TrainingDiverged: If the loss becomes NaN or infinite.
        TrainingInterrupted: At Ctrl-C, if there is a folder to go on from.
        InvalidTraining: If the images are too small for the architecture.
    """
    keras.utils.set_random_seed(config.seed)
    images = dataset.train.images
    model = architectures.build(
        images.shape[1:], len(dataset.class_names), config, dataset.full_ink
    )
    per_epoch = 1 if config.batch_size == FULL_BATCH else math.ceil(len(images) / config.batch_size)
    block = report_every(config.epochs) if per_epoch == 1 else 1
    model.compile(
        optimizer=optimizer(config, per_epoch * config.epochs),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        steps_per_execution=block,
        jit_compile=False,  # convolutions are twice as slow under XLA on a CPU
    )
    model.optimizer.build(model.trainable_variables)  # or Keras makes the graph of a step twice
    validation = dataset.validation
    checkpoints = Checkpoints(config, folder, block, len(validation.labels) if validation else 0)
    checkpoints.restore(model)
    weights = (
        class_weights(dataset.train, len(dataset.class_names)) if config.class_weights else None
    )
    try:
        with _interruptible() as interrupted, bfloat16_convolutions(config.bfloat16):
            if not checkpoints.finished:
                model.fit(
                    batches(dataset, config, checkpoints.state.epochs_done),
                    steps_per_epoch=per_epoch * block,
                    initial_epoch=checkpoints.state.epochs_done // block,
                    epochs=config.epochs // block,
                    validation_data=in_order(validation, len(dataset.class_names))
                    if validation
                    else None,
                    class_weight=weights,
                    callbacks=[_Guard(config, interrupted), checkpoints, *callbacks],
                    shuffle=False,  # the batches come shuffled
                    verbose=0,
                )
            if interrupted.is_set():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if folder is None:
            raise
        raise TrainingInterrupted(checkpoints.state.epochs_done, config.epochs) from None
    checkpoints.restore_best(model)
    history = checkpoints.state.history
    both_ways = config.augmentation and BY_LOOK[dataset.look].mirror
    model = finished(model, both_ways=both_ways, shifted=config.shifted_views)
    return Fitted(model, history, checkpoints.state.best, sum(epoch.seconds for epoch in history))


def report_every(epochs: int) -> int:
    """How many epochs of a single step to run between two reports: what divides them all, and gives about `REPORTS`."""
    divisors = [number for number in range(1, epochs + 1) if epochs % number == 0]
    return min(divisors, key=lambda number: abs(math.log(number * REPORTS / epochs)))


def batches(dataset: Dataset, config: TrainConfig, first_epoch: int = 0) -> tf.data.Dataset:
    """Batches of images and targets, from the first step of an epoch on, without end; a target has a part, 0..1, of each class.

    Order and augmentation are functions of the seed and the step alone, so that a resumed training sees what it would have seen.
    """
    images = tf.constant(dataset.train.images)
    targets = tf.one_hot(dataset.train.labels, len(dataset.class_names))
    if config.batch_size == FULL_BATCH and not config.augmentation:
        return tf.data.Dataset.from_tensors((images, targets)).repeat()
    count = len(dataset.train.labels)
    size = config.batch_size or count
    seed = tf.constant(config.seed, tf.int64)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([seed, epoch])
        )
        turned = mirrored(count, epoch, seed)
        return tf.data.Dataset.from_tensor_slices((shuffled, tf.gather(turned, shuffled))).batch(
            size
        )

    def read(step: tf.Tensor, chosen: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        indices, turned = chosen
        batch, wanted = tf.gather(images, indices), tf.gather(targets, indices)
        if how is None:
            return batch, wanted
        changed = augment(batch, turned, tf.stack([seed, step]), how)
        return (
            mix(changed, wanted, tf.stack([seed, step]), config.mixup)
            if config.mixup
            else (changed, wanted)
        )

    how = replace(BY_LOOK[dataset.look], erasing=config.erasing) if config.augmentation else None
    first_step = first_epoch * math.ceil(count / size)
    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(order).enumerate(start=first_step).map(read).prefetch(PREFETCHED)


def in_order(split: Split, classes: int) -> tf.data.Dataset:
    """Batches of a split, each image once: Keras reads these many times faster than the arrays, which counts where epochs are short."""
    return tf.data.Dataset.from_tensor_slices(
        (split.images, tf.one_hot(split.labels, classes))
    ).batch(VALIDATED)


def class_weights(split: Split, classes: int) -> dict[int, float]:
    """By class, what one image counts for: 1 on average, the more the fewer images a class has."""
    counts = np.bincount(split.labels, minlength=classes)
    return {
        label: len(split.labels) / (classes * max(int(count), 1))
        for label, count in enumerate(counts)
    }


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Set by Ctrl-C, and looked at between two batches: an exception in the midst of TensorFlow's work may be swallowed there.

    Ctrl-C for the second time interrupts at once.
    """
    interrupted = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


class _Guard(keras.callbacks.Callback):
    """Ends a training after Ctrl-C, and one whose loss is no number, before its weights are kept."""

    def __init__(self, config: TrainConfig, interrupted: threading.Event) -> None:
        super().__init__()
        self._config = config
        self._interrupted = interrupted
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise TrainingDiverged(self._epoch, self._config.learning_rate)
