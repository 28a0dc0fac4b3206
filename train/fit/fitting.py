"""Fit a model to a data set, with seeded batches and checkpoints after every epoch."""

import math
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import keras
import numpy as np
import tensorflow as tf

from loupe.errors import Interrupted, ProgramFailed
from train.config import TrainConfig
from train.data.datasets import Dataset, Split
from train.evaluate.evaluation import Epoch
from train.fit.augmentation import BY_LOOK
from train.fit.batches import batches, mixture, validation_batches
from train.fit.checkpoints import Checkpoints
from train.fit.optimizers import make_optimizer
from train.fit.state import State
from train.nets import architectures
from train.nets.inference import to_inference_model
from train.tensorflow import bfloat16_convolutions

REPORTS = 100  # epochs to report if an epoch is one step: reporting each would take longer


@dataclass(frozen=True)
class Fitted:
    """A trained model and its training history.

    Attributes:
        model: From uint8 `(n, height, width[, 3])` to float32 logits `(n, classes)`, with the best
            epoch's weights; see `to_inference_model` for the views that it averages over.
        history: The reported epochs, in order.
        best_epoch: Number of the epoch whose weights the model has.
        seconds: Training time of all sessions together.
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
    """Train a model, or resume from the last checkpoint in a folder.

    The validation split chooses the best epoch; without one, the last epoch is best. Without a
    folder, no checkpoints are written. `callbacks` run after each checkpoint.

    Raises:
        ProgramFailed: If the loss becomes NaN or infinite, or a checkpoint cannot be written.
        Interrupted: After Ctrl-C, if there is a folder to resume from.
        InvalidUsage: If the images are too small for the architecture.
        Conflict: If a checkpoint is damaged.
    """
    keras.utils.set_random_seed(config.seed)
    steps = mixture(dataset, config).steps
    state, validation = State.load(folder) if folder else State(), dataset.validation
    block = epochs_per_report(config.epochs, state.epochs_done) if steps == 1 else 1
    model = _compiled(dataset, config, steps, block)
    validation_images = len(validation.labels) if validation else 0
    checkpoints = Checkpoints(config, folder, state, block, validation_images)
    checkpoints.restore(model)
    try:
        with _interruptible() as interrupted, bfloat16_convolutions(config.bfloat16):
            if not checkpoints.finished:
                # The guard comes first, so that weights of a diverged loss are not kept.
                watchers = [_Guard(config, interrupted), checkpoints, *callbacks]
                _run(model, dataset, config, checkpoints.state.epochs_done, block, watchers)
            if interrupted.is_set():
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        if folder is None:
            raise
        done = checkpoints.state.epochs_done
        raise Interrupted(
            f"Stopped after {done} of {config.epochs} epochs; the checkpoints are kept.",
            code="training_interrupted",
            done=done,
        ) from None
    checkpoints.restore_best(model)
    history = checkpoints.state.history
    model.compiled = False  # stored models have no metric of ours
    mirrored = config.augmentation and BY_LOOK[dataset.look].mirror
    model = to_inference_model(model, mirrored=mirrored, shifted=config.shifted_views)
    return Fitted(model, history, checkpoints.state.best, sum(epoch.seconds for epoch in history))


def _run(
    model: keras.Model,
    dataset: Dataset,
    config: TrainConfig,
    done: int,
    block: int,
    callbacks: Iterable[keras.callbacks.Callback],
) -> None:
    """Train a compiled model after the `done` epochs, `block` of them at a time."""
    validation, classes = dataset.validation, len(dataset.class_names)
    model.fit(
        batches(dataset, config, done),
        steps_per_epoch=mixture(dataset, config).steps * block,
        initial_epoch=done // block,
        epochs=config.epochs // block,
        validation_data=validation_batches(validation, classes) if validation else None,
        class_weight=class_weights(dataset.train, classes) if config.class_weights else None,
        callbacks=list(callbacks),
        shuffle=False,  # the batches are shuffled
        verbose=0,
    )


def _compiled(dataset: Dataset, config: TrainConfig, steps: int, block: int) -> keras.Model:
    """Build and compile the model for epochs of `steps` steps, `block` of them at a time."""
    shape = dataset.train.images.shape[1:]
    model = architectures.build(shape, len(dataset.class_names), config, dataset.full_ink)
    model.compile(
        optimizer=make_optimizer(config, steps * config.epochs),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=[_Accuracy(name="accuracy")],
        steps_per_execution=block,
        jit_compile=False,  # XLA makes convolutions twice as slow on a CPU
    )
    model.optimizer.build(model.trainable_variables)  # or Keras traces the training step twice
    return model


def epochs_per_report(epochs: int, done: int = 0) -> int:
    """Return the divisor of `epochs` that gives about `REPORTS` reports; for epochs of one step.

    It also divides the `done` epochs of a training that is resumed.
    """
    common = math.gcd(epochs, done)
    divisors = [number for number in range(1, common + 1) if common % number == 0]
    return min(divisors, key=lambda number: abs(math.log(number * REPORTS / epochs)))


def class_weights(split: Split, classes: int) -> dict[int, float]:
    """Return the weight of an image by class: inverse to the class's size, 1 on average."""
    counts = np.bincount(split.labels, minlength=classes)
    return {
        label: len(split.labels) / (classes * max(int(count), 1))
        for label, count in enumerate(counts)
    }


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second one interrupts immediately.

    The event is checked between two batches, as TensorFlow may swallow an exception within one.
    """
    interrupted = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():
        before = {}

    def interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Accuracy(keras.metrics.CategoricalAccuracy):
    """The accuracy on images; outliers have no best class."""

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        known = tf.reduce_max(y_true, axis=1) > tf.reduce_min(y_true, axis=1)
        super().update_state(y_true, y_pred, tf.cast(known, tf.float32))


class _Guard(keras.callbacks.Callback):
    """A callback that stops after Ctrl-C, or if the loss diverges, before weights are kept."""

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
            raise ProgramFailed(
                f"The loss became NaN or infinite in epoch {self._epoch}. Nothing was saved. Train "
                f"with a learning rate below {self._config.learning_rate:g}.",
                code="training_diverged",
            )
