"""The log of promotions: which version of a model got which label, when, and with what figures.

The last line of a label says where it points; nothing else does. One JSON line per promotion, never changed afterwards. A line
counts once its newline is there, so that readers need no lock.
"""

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from loupe.models.card import Figures
from loupe.old_errors.core import StoreUnwritable

logger = logging.getLogger(__name__)

Kind = Literal["promote", "rollback"]


class PromotedFigures(BaseModel):
    """Of the model card, what a promotion was decided on; it outlives the model."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    loss: float
    calibration_error: float
    test_digest: str

    @classmethod
    def of(cls, figures: Figures) -> "PromotedFigures":
        """Those of a model card."""
        return cls(
            accuracy=figures.accuracy,
            loss=figures.loss,
            calibration_error=figures.calibration_error,
            test_digest=figures.test_digest,
        )


class Promotion(BaseModel):
    """One line of the log: a label of a model's name moved from one version to another."""

    model_config = ConfigDict(frozen=True)

    time: AwareDatetime  # UTC
    kind: Kind
    name: str
    label: str
    from_version: str | None
    to_version: str
    from_figures: PromotedFigures | None
    to_figures: PromotedFigures
    forced: bool  # whether it would have been refused


@dataclass
class OpenLog:
    """The log while nobody else may write to it: what it holds, oldest first, and `append`."""

    path: Path
    history: list[Promotion]
    _file: FileIO
    _whole_bytes: int  # up to the newline of the last line; what follows was cut short by a crash

    def append(self, promotion: Promotion) -> None:
        """Add a line, on the disk when this returns.

        Raises:
            StoreUnwritable: If that cannot be; the log is as it was.
        """
        line = promotion.model_dump_json().encode() + b"\n"
        try:
            self._file.truncate(self._whole_bytes)
            _write(self._file, line)
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._whole_bytes)
            raise StoreUnwritable.of(error, self.path) from error
        self._whole_bytes += len(line)
        self.history.append(promotion)


def read(path: Path) -> list[Promotion]:
    """All promotions, oldest first; a line that is none is passed over with a warning.

    Raises:
        StoreUnwritable: If there is a log that cannot be read.
    """
    try:
        return _parse(path.read_bytes(), path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreUnwritable.of(error, path) from error


@contextmanager
def writing(path: Path) -> Iterator[OpenLog]:
    """The log, for this process alone as long as the block lasts: what is decided on its history still holds when it is written.

    Raises:
        StoreUnwritable: If it cannot be opened for writing.
    """
    with _locked(path) as file:
        data = path.read_bytes()
        yield OpenLog(path, _parse(data, path), file, data.rfind(b"\n") + 1)


def pointers(history: Iterable[Promotion]) -> dict[tuple[str, str], Promotion]:
    """By name and label the promotion that set it."""
    return {(promotion.name, promotion.label): promotion for promotion in history}


def standing(history: Iterable[Promotion], name: str, label: str) -> list[str]:
    """The versions a label has had, without those that were rolled back: the last has it now, the one before it had it before."""
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


def _locked(path: Path) -> FileIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = FileIO(path, "a")
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
    except OSError as error:
        raise StoreUnwritable.of(error, path) from error
    return file


def _write(file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a disk that fills up takes a part first
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _parse(data: bytes, path: Path) -> list[Promotion]:
    *lines, rest = data.split(b"\n")
    promotions = []
    for number, line in enumerate(lines, 1):
        try:
            promotions.append(Promotion.model_validate_json(line))
        except ValidationError:
            logger.warning("%s: line %d is no promotion and is passed over", path, number)
    if rest:
        logger.warning("%s: the last line was cut short and is passed over", path)
    return promotions
