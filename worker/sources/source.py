"""What every source of images can do: be planned once, and be read shard by shard afterwards, by whichever process has time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import pyarrow as pa

from loupe.errors import LoupeError
from loupe.images.spec import UInt8Array
from loupe.old_errors.worker import SourceChanged
from worker.queue.steps import Shard
from worker.storage import AnyPath, versions


@dataclass(frozen=True)
class Records:
    """Some records of a source, in its order.

    Attributes:
        ids: Path, key or row number of each record that could be read.
        images: uint8, shape `(len(ids), 28, 28)`.
        errors: Id and error of each record that could not be read.
        columns: What else the source says of each record that could be read, if that was asked for.
    """

    ids: list[str] | list[int]
    images: UInt8Array
    errors: list[tuple[str, LoupeError]]
    columns: pa.Table | None = None


BatchReader: TypeAlias = Callable[
    [], Records
]  # read when it is called, by whichever thread has time


@dataclass(frozen=True)
class ShardPlan:
    """How a source is cut.

    Attributes:
        total: Records in it.
        revision: Changes when the source does.
        shards: The steps that score it.
    """

    total: int
    revision: str
    shards: list[Shard]


class ImageSource(Protocol):
    """A set of images."""

    def check(self) -> None:
        """Raises `InvalidSource` if this is clearly nothing to score."""

    def plan(self, shard_images: int, notes: Path) -> ShardPlan:
        """Cut the source into shards of at most `shard_images` records. `notes` is a folder to keep what reading them needs."""

    def batches(
        self, shard: Shard, batch_size: int, notes: Path, revision: str
    ) -> Iterator[BatchReader]:
        """The records of one shard, a few at a time; `SourceChanged` if the source is not what was planned."""

    def record_id(self, shard: Shard, place: int, notes: Path) -> str:
        """Path, key or row number of one record of a shard, which is not read for it; `place` counts from the shard's start."""


def cut(total: int, shard_images: int) -> list[Shard]:
    """As few shards as will do, all of one size or one record less: a small rest would leave workers with nothing to do at the end."""
    shards = -(-total // shard_images)
    return [
        Shard(index, start=total * index // shards, stop=total * (index + 1) // shards)
        for index in range(shards)
    ]


def stamp(*files: AnyPath) -> str:
    """What changes when one of these files does."""
    return " ".join(versions(files))


def check_unchanged(where: str, planned: str, now: str) -> None:
    """Raises `SourceChanged` if two stamps differ."""
    if planned != now:
        raise SourceChanged(where)


def printable(path: str) -> str:
    """A path as text that can be written anywhere; bytes that are no UTF-8 become `\\udc..`."""
    return path.encode("utf-8", "backslashreplace").decode()
