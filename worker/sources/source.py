"""The interface of a source of images: planned once, then read shard by shard by any process."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pyarrow as pa

from loupe.errors import InvalidSource, LoupeError, SourceChanged
from loupe.files import printable
from loupe.images.selection import SkippedFiles
from loupe.images.spec import UInt8Array
from loupe.jobs import ScoringOptions
from worker.queue.steps import Shard

MAX_SHARDS = 20_000  # of one job; each takes some 500 bytes in Redis
MAX_GROWN_SHARD = 65_536  # records of a shard that is larger than requested
# In error messages.
MAX_LISTED_COLUMNS, MAX_LISTED_CHARACTERS, MAX_REASON_CHARACTERS = 12, 80, 300


@dataclass(frozen=True)
class Records:
    """Consecutive records of a source.

    Attributes:
        ids: Path, key or row number of each readable record.
        images: uint8, shape `(len(ids), 28, 28)`.
        errors: Id and error of each unreadable record.
        columns: Requested columns of the source, a row for each readable record.
    """

    ids: list[str] | list[int]
    images: UInt8Array
    errors: list[tuple[str, LoupeError]]
    columns: pa.Table | None = None


class NoPictures(InvalidSource):
    """A collection has no pictures; it may have something else."""


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
        skipped: Files of the source that are no records.
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


def check_unchanged(source: object, planned: str, now: str) -> None:
    """Raise `SourceChanged` if two versions of a source differ."""
    if planned != now:
        raise SourceChanged(
            f"'{source}' has changed since the job began. Score it again into a new folder."
        )


def check_columns(source: object, options: ScoringOptions, columns: Sequence[str] | None) -> None:
    """Raise `InvalidSource` if a source without columns, or with these, lacks a requested one."""
    wanted = [options.id, *options.columns, options.image_column if columns is None else None]
    for column in filter(None, wanted):
        if column not in (columns or ()):
            known = "only tables, manifests, .npz and WebDataset archives have columns"
            if columns is not None:
                known = f"it has {listed(columns)}"
            raise InvalidSource(
                f"'{source}' has no column {column!r}: {known}.", code="column_not_found"
            )


def listed(names: Sequence[str]) -> str:
    """Return the first names for an error message, long ones cut."""
    shown = [short(name, MAX_LISTED_CHARACTERS) for name in names[:MAX_LISTED_COLUMNS]]
    return (", ".join(shown) or "none") + (" …" if len(names) > MAX_LISTED_COLUMNS else "")


def short(text: object, limit: int = MAX_REASON_CHARACTERS) -> str:
    """Return a text for an error message, cut if it is long; a source may hold any text."""
    shown = str(text)
    return shown if len(shown) <= limit else f"{shown[:limit]} …"


def damaged(source: str, error: Exception) -> InvalidSource:
    """Return the error for a file that cannot be read as what it seems to be."""
    return InvalidSource(f"The {source} is damaged: {short(error)}.")


def as_text(value: Any) -> str | None:
    """Return a value as text, since a column has one type; what is no text becomes JSON."""
    if value is None:
        return None
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
