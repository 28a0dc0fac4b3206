"""The progress of a training on the terminal: a line per epoch and a bar."""

import keras
from rich.console import Console

from loupe.terminal import progress_bar
from train.config import TrainConfig


class ProgressBar(keras.callbacks.Callback):
    """A callback that prints each epoch's metrics, and shows a bar on a real terminal."""

    def __init__(self, console: Console, config: TrainConfig) -> None:
        super().__init__()
        self._epochs = config.epochs
        self._bar = progress_bar("metrics", console=console)
        self._task = self._bar.add_task("training", metrics="", total=None)
        self._steps_before = 0  # steps of earlier epochs

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=self.params["steps"] * self.params["epochs"])
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Show the number of the epoch."""
        self._steps_before = epoch * self.params["steps"]
        number = epoch * self._block + 1
        self._bar.update(self._task, description=f"epoch {number}/{self._epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance the bar."""
        metrics = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        self._bar.update(self._task, completed=self._steps_before + batch + 1, metrics=metrics)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the epoch's metrics."""
        values = logs or {}
        number = (epoch + 1) * self._block
        line = f"epoch {number:>{len(str(self._epochs))}}/{self._epochs}  "
        line += f"loss {values['loss']:.3f} accuracy {values['accuracy']:.4f}"
        if "val_loss" in values:
            loss, accuracy = values["val_loss"], values["val_accuracy"]
            line += f"   validation loss {loss:.3f} accuracy {accuracy:.4f}"
        self._bar.console.print(line)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Remove the bar."""
        self._bar.stop()

    @property
    def _block(self) -> int:
        """Number of epochs that Keras counts as one."""
        return int(self._epochs // self.params["epochs"])
