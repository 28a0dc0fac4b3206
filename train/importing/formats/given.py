"""What an import needs of a given model, whatever its format."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.importing.wiring import Inputs, Outputs, Wiring

BATCH = 256  # inputs of a run, if any number is possible

OutputHint = Literal["logits", "probabilities", "sigmoid"]


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model.

    Attributes:
        inputs: Names.
        outputs: Names.
        dtype: NumPy's name of the first input's type.
        shape: Its shape, with the batch axis first; `None` for sizes that are not fixed.
    """

    inputs: list[str]
    outputs: list[str]
    dtype: str
    shape: tuple[int | None, ...]


class GivenModel(ABC):
    """A model that another program trained.

    Attributes:
        format: For the model card.
        parameters: Number of its weights.
        made_with: Versions of the packages that made it or run it.
        batch_size: The number of inputs of a run, if the model takes no other.
    """

    format: str
    parameters: int
    made_with: dict[str, str]
    batch_size: int | None = None

    @property
    @abstractmethod
    def signature(self) -> Signature:
        """Inputs and outputs."""

    @property
    @abstractmethod
    def takes_bytes(self) -> bool:
        """True if the model certainly scales pixels from 0 to 255 itself."""

    @property
    @abstractmethod
    def output_hint(self) -> OutputHint | None:
        """The meaning of the outputs, as far as the last operation shows it."""

    def run(self, inputs: Inputs) -> Outputs:
        """Return the outputs for inputs, `(n, …)`, from the model's own framework.

        Raises:
            InvalidModel: If the model cannot be run.
        """
        size = self.batch_size or BATCH
        rest = -len(inputs) % self.batch_size if self.batch_size else 0
        padded = np.concatenate([inputs, np.repeat(inputs[-1:], rest, axis=0)]) if rest else inputs
        starts = range(0, len(padded), size)
        outputs = [self.run_batch(padded[start : start + size]) for start in starts]
        return np.concatenate(outputs)[: len(inputs)]

    @abstractmethod
    def run_batch(self, inputs: Inputs) -> Outputs:
        """Return the outputs of one run, for as many inputs as the model takes; see `run`."""

    @abstractmethod
    def settle(self, inputs: Inputs) -> None:
        """Prepare for any batch size, with a few inputs to try it on.

        Raises:
            InvalidModel: If the model cannot be run on any number of images.
        """

    @abstractmethod
    def save(self, folder: Path, wiring: Wiring, units: int, temperature: float) -> tuple[str, ...]:
        """Write the stored model's files to a folder and return their names.

        Args:
            folder: An empty folder.
            wiring: What the inputs and outputs are.
            units: Number of outputs for an image.
            temperature: Divides the logits.
        """
