"""The log of promotions: which version of a model got which label, when, and with which figures.

One JSON line per promotion, never changed afterwards. The last line of a label says where it
points. A line counts once its newline is written, so readers need no lock.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from loupe.errors import NotWritable
from loupe.files import lock

logger = logging.getLogger(__name__)

Kind = Literal["promote", "rollback"]


def store_unwritable(error: OSError, path: Path) -> NotWritable:
    """Describe an error of the operating system at a path in the model store."""
    # An error from copying a folder lists every file that failed; the first is enough.
    first = error.args[0][0][-1] if error.args and isinstance(error.args[0], list) else None
    where = "" if error.filename is None else f" ({error.filename})"
    return NotWritable(
        f"The model store at '{path}' cannot be used: "
        f"{first or f'{error.strerror or error}{where}'}. Nothing was saved. "
        "Make room there, or choose another folder: BENTOML_HOME.",
        code="store_unwritable",
    )


class PromotedFigures(BaseModel):
    """The figures that decided a promotion; the log keeps them after the model is deleted."""

    model_config = ConfigDict(frozen=True, from_attributes=True)  # of a model card's figures

    accuracy: float
    loss: float
    calibration_error: float
    test_digest: str


class Promotion(BaseModel):
    """One line of the log: a label moved from one version of a model to another."""

    model_config = ConfigDict(frozen=True)

    time: AwareDatetime  # UTC
    kind: Kind
    name: str
    label: str
    from_version: str | None
    to_version: str
    from_figures: PromotedFigures | None
    to_figures: PromotedFigures | None  # as `from_figures`, `None` if it was not measured
    forced: bool  # whether --force overruled a refusal


@dataclass
class OpenLog:
    """The log while this process alone may write: its history, oldest first, and `append`."""

    path: Path
    history: list[Promotion]
    _file: FileIO
    _whole_bytes: int  # up to the last newline; a crash may have left half a line behind it

    def append(self, promotion: Promotion) -> None:
        """Write a line to disk.

        Raises:
            NotWritable: If it cannot be written; the log stays as it was.
        """
        line = promotion.model_dump_json().encode() + b"\n"
        try:
            self._file.truncate(self._whole_bytes)
            rest = memoryview(line)
            while rest:  # a disk that fills up may take a part first
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._whole_bytes)
            raise store_unwritable(error, self.path) from error
        self._whole_bytes += len(line)
        self.history.append(promotion)


def read(path: Path) -> list[Promotion]:
    """Return all promotions, oldest first; invalid lines are logged and skipped.

    Raises:
        NotWritable: If the log cannot be read.
    """
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_unwritable(error, path) from error


@contextmanager
def writing(path: Path) -> Iterator[OpenLog]:
    """Open the log under an exclusive lock, so that decisions on its history hold when written.

    Raises:
        NotWritable: If the log cannot be opened for writing.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lock(path))
            data = path.read_bytes()
        except OSError as error:
            raise store_unwritable(error, path) from error
        yield OpenLog(path, _parse(data, path), file, data.rfind(b"\n") + 1)


def pointers(history: Iterable[Promotion]) -> dict[tuple[str, str], Promotion]:
    """Return the latest promotion of each name and label."""
    return {(promotion.name, promotion.label): promotion for promotion in history}


def standing(history: Iterable[Promotion], name: str, label: str) -> list[str]:
    """Return the versions a label has had, oldest first, without those that were rolled back."""
    versions: list[str] = []
    for promotion in history:
        if (promotion.name, promotion.label) != (name, label):
            continue
        if promotion.kind == "rollback":
            while versions and versions[-1] != promotion.to_version:
                versions.pop()
        if not versions or versions[-1] != promotion.to_version:
            versions.append(promotion.to_version)
    return versions


def _parse(data: bytes, path: Path) -> list[Promotion]:
    *lines, rest = data.split(b"\n")
    promotions = []
    for number, line in enumerate(lines, 1):
        try:
            promotions.append(Promotion.model_validate_json(line))
        except ValidationError:
            logger.warning("%s: skipped line %d, which is not a promotion", path, number)
    if rest:
        logger.warning("%s: skipped the last line, which is incomplete", path)
    return promotions
