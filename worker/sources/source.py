"""The interface of a source of images: planned once, then read shard by shard by any process."""

import json
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from loupe.errors import InvalidSource, LoupeError
from loupe.files import printable
from loupe.images.selection import SkippedFiles
from loupe.images.spec import UInt8Array
from worker.queue.steps import Shard

MAX_SHARDS = 20_000  # of one job; each takes some 500 bytes in Redis
MAX_GROWN_SHARD = 65_536  # records of a shard that is larger than requested


@dataclass(frozen=True)
class Records:
    """Consecutive records of a source.

    Attributes:
        ids: Path, key or row number of each readable record.
        images: uint8, shape `(len(ids), *spec.shape)` of the model.
        errors: Id and error of each unreadable record.
        columns: Requested columns of the source, a row for each readable record.
    """

    ids: list[str] | list[int]
    images: UInt8Array
    errors: list[tuple[str, LoupeError]]
    columns: pa.Table | None = None


class NoPictures(InvalidSource):
    """A collection without pictures; it may hold tables."""


BatchReader: TypeAlias = Callable[[], Records]
"""Reads one batch; any thread may call it."""


@dataclass(frozen=True)
class ColumnTypes:
    """Types of the columns that rows take from their source, the same for every shard.

    Attributes:
        id: Of the ids: text or int64.
        kept: Names and types of the requested columns.
    """

    id: pa.DataType = field(default_factory=pa.string)
    kept: pa.Schema = field(default_factory=lambda: pa.schema([]))


def id_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of ids from a column: int64 if it holds all values of `kind`, else text."""
    is_number = pa.types.is_integer(kind) and not pa.types.is_uint64(kind)
    return pa.int64() if is_number else pa.string()


@dataclass(frozen=True)
class ShardPlan:
    """Division of a source into shards.

    Attributes:
        total: Number of records.
        revision: A text that changes when the source does.
        shards: Steps that score the source.
        skipped: Files of the source that are not records.
    """

    total: int
    revision: str
    shards: list[Shard]
    skipped: SkippedFiles = field(default_factory=dict)


class ImageSource(Protocol):
    """A set of images."""

    def check(self) -> None:
        """Raise `InvalidSource` if it is clear that there is nothing to score."""

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """Divide the source into shards of at most `shard_images` records.

        Files that reading needs are written to the folder `index`.
        """

    def column_types(self, index: Path) -> ColumnTypes:
        """Return the types of the ids and of the requested columns."""

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """Yield readers of a shard's records; raise `SourceChanged` if the revision differs."""

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """Return the id of the record at a position in a shard without reading its image."""

    def previews(self, ids: Container[str], index: Path) -> dict[str, UInt8Array]:
        """Return the original pictures of some records, small, uint8 RGB, by id.

        Records without a picture, and pictures that cannot be read any more, are missing.
        """


def cut(total: int, shard_images: int) -> list[Shard]:
    """Return as few shards as possible, whose sizes differ by at most one.

    A small last shard would leave workers idle at the end. Shards of large sources are larger, so
    that there are at most `MAX_SHARDS`.

    Raises:
        InvalidSource: If the source has, or claims to have, too many records.
    """
    most = MAX_SHARDS * max(shard_images, MAX_GROWN_SHARD)
    if total > most:
        raise InvalidSource(
            f"The source has {total:,} records; a job scores at most {most:,}. Divide it.",
            code="source_too_large",
        )
    shards = min(-(-total // shard_images), MAX_SHARDS)
    return [
        Shard(index, total * index // shards, total * (index + 1) // shards)
        for index in range(shards)
    ]


def read_json(text: str) -> Any:
    """Return a JSON value; Python's NaN and infinity are null, since JSON has none."""
    return json.loads(text, parse_constant=lambda _: None)


def as_text(value: Any) -> str | None:
    """Return a value as text, since a column has one type; other values become JSON."""
    if value is None:
        return None
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
