"""The state of a training: its epochs so far, and the files with their weights."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from loupe.errors import Conflict
from loupe.files import write_atomically
from train.evaluate.evaluation import Epoch

STATE_FILE = "state.json"

WeightsFile = Annotated[str, StringConstraints(pattern=r"^[^/]+$")]


class State(BaseModel):
    """The state of a training.

    Attributes:
        history: The epochs so far.
        best: Number of the best epoch.
        files: Epoch → file of its weights, for the best and the last epoch; the last epoch's file
            also holds the optimizer's state.
    """

    model_config = ConfigDict(extra="forbid")

    history: tuple[Epoch, ...] = ()
    best: int = 0
    files: dict[int, WeightsFile] = {}

    @model_validator(mode="after")
    def _check_files(self) -> "State":
        if self.history and not {self.best, self.epochs_done} <= self.files.keys():
            raise ValueError("it does not name the weights of the best and the last epoch")
        return self

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
        """Read `state.json`; without the file, return the initial state.

        Raises:
            Conflict: If the file, or one that it names, cannot be used.
        """
        file = folder / STATE_FILE
        try:
            state = cls.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError) as error:
            raise damaged(file, error) from error
        for name in state.files.values():
            if not (folder / name).is_file():
                raise damaged(folder / name, "it does not exist")
        return state


def damaged(file: Path, reason: object) -> Conflict:
    """Return the error for a file of a run that cannot be used."""
    if isinstance(reason, ValidationError):  # whose text has several lines
        first = reason.errors()[0]
        reason = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
    line = " ".join(str(reason).split()).rstrip(".")
    return Conflict(
        f"The run cannot be resumed, because '{file}' is damaged or from another version: {line}. "
        "Start a new training.",
        code="run_damaged",
    )


def _rank(epoch: Epoch) -> tuple[float, float]:
    """Return a key that sorts epochs from worst to best."""
    return epoch.validation_accuracy or 0.0, -(epoch.validation_loss or 0.0)
