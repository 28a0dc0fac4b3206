"""Checkpoints: after every epoch the weights, the optimiser's state and the history are on disk, and the best epoch's stay there."""

import math
import time
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from loupe.old_errors.train import CheckpointFailed
from train.config import TrainConfig
from train.evaluate.evaluation import Epoch

STATE_FILE = "state.json"


class State(BaseModel):
    """Where a training stands.

    Attributes:
        history: The epochs so far.
        best: Number of the best of them.
        files: Names of the weights' files, by epoch: the best one's, and the last one's with the optimiser's state.
    """

    history: tuple[Epoch, ...] = ()
    best: int = 0
    files: dict[int, str] = {}

    @property
    def epochs_done(self) -> int:
        """How many epochs are behind the last checkpoint."""
        return self.history[-1].number if self.history else 0

    def after(self, epoch: Epoch, file: str, margin: float = 0.0) -> "State":
        """The state once an epoch has ended and its weights are in a file.

        The best epoch is the one with the highest validation accuracy, of equals the one with the lowest validation loss; without a
        validation split it is the last. With a `margin` it is the last one whose accuracy is less than that below the highest.
        """
        before = next((known for known in self.history if known.number == self.best), None)
        if before is None or epoch.validation_accuracy is None:
            better = True
        elif margin:
            better = (
                epoch.validation_accuracy > max(_rank(known)[0] for known in self.history) - margin
            )
        else:
            better = _rank(epoch) > _rank(before)
        best = epoch.number if better else self.best
        files = {epoch.number: file} | ({} if better else {best: self.files[best]})
        return State(history=(*self.history, epoch), best=best, files=files)

    def save(self, folder: Path) -> None:
        """Write `state.json`, whole or not at all."""
        temporary = folder / f"{STATE_FILE}.part"
        temporary.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        temporary.replace(folder / STATE_FILE)

    @classmethod
    def load(cls, folder: Path) -> "State":
        """Read `state.json`; a folder without one stands at the beginning."""
        try:
            return cls.model_validate_json((folder / STATE_FILE).read_bytes())
        except FileNotFoundError:
            return cls()


class Checkpoints(keras.callbacks.Callback):
    """Keeps the best epoch's weights, stops when nothing gets better, and writes down where to go on after any end."""

    def __init__(
        self, config: TrainConfig, folder: Path | None, block: int, validation_images: int
    ) -> None:
        """`block` is how many epochs Keras counts as one; without a folder nothing is written."""
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
        """Whether no epoch is left to train."""
        done = self.state.epochs_done
        patience = self._config.patience
        return done >= self._config.epochs or 0 < patience <= done - self.state.best

    def restore(self, model: keras.Model) -> None:
        """Give a compiled model, its optimiser built, the weights and the optimiser's state of the last checkpoint, if there is one."""
        if self._folder and self.state.history:
            model.load_weights(self._folder / self.state.files[self.state.epochs_done])

    def restore_best(self, model: keras.Model) -> None:
        """Give a model the weights of the best epoch."""
        if self._folder:
            model.load_weights(self._folder / self.state.files[self.state.best])
        else:
            model.set_weights(self._best_weights)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the clock, and give dropout the random numbers of this epoch, whatever came before."""
        self._started = time.monotonic()
        for number, layer in enumerate(self.model.layers):
            if isinstance(layer, keras.layers.Dropout):
                layer.seed_generator.state.assign([self._config.seed + number, epoch])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write down the epoch and its weights."""
        figures = logs or {}
        ended = Epoch(
            number=(epoch + 1) * self._block,
            loss=figures["loss"],
            accuracy=figures["accuracy"],
            validation_loss=figures.get("val_loss"),
            validation_accuracy=figures.get("val_accuracy"),
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
        """By how much two epochs' accuracies may differ by chance, where the learning rate falls: there the later one has settled more.

        It is one standard error. Source: Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3.
        """
        if accuracy is None or self._config.schedule == "constant":
            return 0.0
        return math.sqrt(accuracy * (1 - accuracy) / self._validation_images)

    def _write(self, folder: Path, name: str, state: State) -> None:
        """Weights first, the state that names them next, and only then away with those that nothing names any more."""
        try:
            self.model.save_weights(folder / name)
            state.save(folder)
        except OSError as error:
            raise CheckpointFailed(str(folder), str(error), self.state.epochs_done) from error
        for old in set(self.state.files.values()) - set(state.files.values()):
            (folder / old).unlink(missing_ok=True)


def _rank(epoch: Epoch) -> tuple[float, float]:
    """Orders epochs from worse to better."""
    return epoch.validation_accuracy or 0.0, -(epoch.validation_loss or 0.0)
