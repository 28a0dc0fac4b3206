"""Checkpoints after every epoch, and the weights of the best one."""

import math
import time
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from loupe.errors import ProgramFailed
from loupe.files import write_atomically
from train.config import TrainConfig
from train.evaluate.evaluation import Epoch

STATE_FILE = "state.json"


class State(BaseModel):
    """The state of a training.

    Attributes:
        history: The epochs so far.
        best: Number of the best epoch.
        files: Epoch → file of its weights, for the best and the last epoch; the last epoch's file
            also holds the optimizer's state.
    """

    history: tuple[Epoch, ...] = ()
    best: int = 0
    files: dict[int, str] = {}

    @property
    def epochs_done(self) -> int:
        """Number of epochs before the last checkpoint."""
        return self.history[-1].number if self.history else 0

    def after(self, epoch: Epoch, file: str, margin: float = 0.0) -> "State":
        """Return the state after another epoch, whose weights are in a file.

        The best epoch has the highest validation accuracy, and of equals the lowest validation
        loss; without a validation split it is the last. With a `margin`, it is the last one whose
        accuracy is within the margin of the highest.
        """
        best = next((known for known in self.history if known.number == self.best), None)
        if best is None or epoch.validation_accuracy is None:
            better = True
        elif margin:
            highest = max(known.validation_accuracy or 0.0 for known in self.history)
            better = epoch.validation_accuracy > highest - margin
        else:
            better = _rank(epoch) > _rank(best)
        number = epoch.number if better else self.best
        files = {epoch.number: file} | ({} if better else {number: self.files[number]})
        return State(history=(*self.history, epoch), best=number, files=files)

    def save(self, folder: Path) -> None:
        """Write `state.json` atomically."""
        write_atomically(folder / STATE_FILE, self.model_dump_json(indent=1))

    @classmethod
    def load(cls, folder: Path) -> "State":
        """Read `state.json`; without the file, return the initial state."""
        try:
            return cls.model_validate_json((folder / STATE_FILE).read_bytes())
        except FileNotFoundError:
            return cls()


class Checkpoints(keras.callbacks.Callback):
    """A callback that keeps the best weights, stops early, and writes checkpoints to a folder.

    `block` is the number of epochs that Keras counts as one.
    """

    def __init__(
        self, config: TrainConfig, folder: Path | None, block: int, validation_images: int
    ) -> None:
        super().__init__()
        self.state = State.load(folder) if folder else State()
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
            model.load_weights(self._folder / self.state.files[self.state.epochs_done])

    def restore_best(self, model: keras.Model) -> None:
        """Load the weights of the best epoch."""
        if self._folder:
            model.load_weights(self._folder / self.state.files[self.state.best])
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


def _rank(epoch: Epoch) -> tuple[float, float]:
    """Return a key that sorts epochs from worst to best."""
    return epoch.validation_accuracy or 0.0, -(epoch.validation_loss or 0.0)
