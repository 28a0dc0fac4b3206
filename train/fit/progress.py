"""Progress of a training on the terminal: a line per epoch, and on a real terminal a bar with the time left."""

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from train.config import TrainConfig


class ProgressBar(keras.callbacks.Callback):
    """Shows a bar over all steps of all epochs, and prints the loss and accuracy of both splits after each epoch."""

    def __init__(self, console: Console, config: TrainConfig) -> None:
        super().__init__()
        self._config = config
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("training", figures="", total=None)
        self._before = 0  # steps of the epochs that have ended

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Show the bar."""
        self._bar.update(self._task, total=self.params["steps"] * self.params["epochs"])
        self._bar.start()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Count the steps before this epoch, those of an earlier sitting too."""
        self._before = epoch * self.params["steps"]
        block = self._config.epochs // self.params["epochs"]
        self._bar.update(self._task, description=f"epoch {epoch * block + 1}/{self._config.epochs}")

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Move the bar on."""
        figures = "  ".join(f"{name} {value:.4f}" for name, value in (logs or {}).items())
        self._bar.update(self._task, completed=self._before + batch + 1, figures=figures)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the epoch's figures."""
        figures = logs or {}
        block = self._config.epochs // self.params["epochs"]
        number = (epoch + 1) * block
        line = f"epoch {number:>{len(str(self._config.epochs))}}/{self._config.epochs}  "
        line += f"loss {figures['loss']:.3f} accuracy {figures['accuracy']:.4f}"
        if "val_loss" in figures:
            line += f"   validation loss {figures['val_loss']:.3f} accuracy {figures['val_accuracy']:.4f}"
        self._bar.console.print(line, highlight=False, soft_wrap=True)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Take the bar away."""
        self._bar.stop()
