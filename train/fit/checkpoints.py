"""Checkpoints after every epoch, and the weights of the best one."""

import math
import time
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from loupe.errors import ProgramFailed
from train.config import TrainConfig
from train.evaluate.evaluation import Epoch
from train.fit.state import State, damaged


class Checkpoints(keras.callbacks.Callback):
    """A callback that keeps the best weights, stops early, and writes checkpoints to a folder.

    `block` is the number of epochs that Keras counts as one.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path | None,
        state: State,
        block: int,
        validation_images: int,
    ) -> None:
        super().__init__()
        self.state = state
        self._config = config
        self._folder = folder
        self._block = block
        self._validation_images = validation_images
        self._best_weights: list[NDArray[np.float32]] = []
        self._started = 0.0

    @property
    def finished(self) -> bool:
        """True if the last epoch is done, or the patience has run out."""
        done, patience = self.state.epochs_done, self._config.patience
        return done >= self._config.epochs or 0 < patience <= done - self.state.best

    def restore(self, model: keras.Model) -> None:
        """Load the last checkpoint, if there is one, into a compiled model and its optimizer."""
        if self._folder and self.state.history:
            _load_weights(model, self._folder / self.state.files[self.state.epochs_done])

    def restore_best(self, model: keras.Model) -> None:
        """Load the weights of the best epoch."""
        if self._folder:
            _load_weights(model, self._folder / self.state.files[self.state.best])
        else:
            model.set_weights(self._best_weights)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock, and seed dropout by epoch: a resumed run must drop the same units."""
        self._started = time.monotonic()
        for number, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([self._config.seed + number, epoch])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Record the epoch and its weights."""
        values = logs or {}
        ended = Epoch(
            number=(epoch + 1) * self._block,
            loss=values["loss"],
            accuracy=values["accuracy"],
            validation_loss=values.get("val_loss"),
            validation_accuracy=values.get("val_accuracy"),
            learning_rate=float(self.model.optimizer.learning_rate),
            seconds=time.monotonic() - self._started,
        )
        name = f"epoch-{ended.number:04d}.weights.h5"
        state = self.state.after(ended, name, self._margin(ended.validation_accuracy))
        if self._folder:
            self._write(self._folder, name, state)
        elif state.best == ended.number:
            self._best_weights = self.model.get_weights()
        self.state = state
        if self.finished:
            self.model.stop_training = True

    def _margin(self, accuracy: float | None) -> float:
        """Return one standard error of the accuracy, or 0 if the learning rate is constant.

        With a falling learning rate, the later of two epochs within the margin has converged more.
        Source: Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3.
        """
        if accuracy is None or self._config.schedule == "constant":
            return 0.0
        return math.sqrt(accuracy * (1 - accuracy) / self._validation_images)

    def _write(self, folder: Path, name: str, state: State) -> None:
        """Write the weights, then the state that names them, then delete files it does not name."""
        try:
            self.model.save_weights(folder / name)
            state.save(folder)
        except OSError as error:
            raise ProgramFailed(
                f"Cannot write the checkpoint to {folder}: {error}. Free some space or set "
                f"LOUPE_DATA_DIR; the run can be resumed after epoch {self.state.epochs_done}.",
                code="checkpoint_failed",
            ) from error
        for old in set(self.state.files.values()) - set(state.files.values()):
            (folder / old).unlink(missing_ok=True)


def _load_weights(model: keras.Model, file: Path) -> None:
    """Load a checkpoint, or raise `Conflict` if it does not fit the model."""
    try:
        model.load_weights(file)
    except Exception as error:
        raise damaged(file, error) from error
