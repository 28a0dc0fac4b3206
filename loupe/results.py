"""Files of a bulk-scoring job's results: their names, and their rows as one file of any format.

Light to import: `loupe.conversion`, which needs pyarrow, is imported only where it is needed.
"""

import fnmatch
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args

Format = Literal["parquet", "csv", "jsonl"]


class AnyFile(Protocol):
    """A file on this machine or in a bucket."""

    @property
    def name(self) -> str:
        """The last part of its path."""

    def read_bytes(self) -> bytes:
        """Return its content."""


F = TypeVar("F", bound=AnyFile)

# Files with the request of a job: of one in progress, and of one that has ended.
RUNNING, SUCCESS, CANCELLED = "_RUNNING", "_SUCCESS", "_CANCELLED"
COLUMNS_FILE = "_columns.json"  # names and types of the columns
CHUNK_BYTES = 2**18  # read at a time


def predictions_name(shard: int, shards: int, kind: Format = "parquet") -> str:
    """Return the file name of a shard's predictions."""
    return f"predictions-{shard:05d}-of-{shards:05d}.{kind}"


def single_name(kind: Format) -> str:
    """Return the file name of predictions that were merged into one file."""
    return f"predictions.{kind}"


def errors_name(shard: int, shards: int) -> str:
    """Return the file name of a shard's errors."""
    return f"_errors-{shard:05d}-of-{shards:05d}.jsonl"


def find_result(files: Mapping[str, F], wanted: Format) -> tuple[Format, list[F]]:
    """Return the format and the files of a finished job's rows in their order.

    Args:
        files: The files of its folder, by name.
        wanted: Format that the job wrote; a later command may have converted the result.
    """
    for kind in sorted(get_args(Format), key=lambda kind: kind != wanted):
        if single_name(kind) in files:
            return kind, [files[single_name(kind)]]
        if parts := sorted(fnmatch.filter(files, f"predictions-*-of-*.{kind}")):
            return kind, [files[name] for name in parts]
    return wanted, []


def find_finished(files: Mapping[str, F], shards: int, fingerprint: str, kind: Format) -> list[F]:
    """Return the prediction files of a job's finished parts in their order.

    Args:
        files: The files of its folder, by name. An earlier plan may have left some.
        shards: Number of all parts.
        fingerprint: What the receipts of this plan's parts contain.
        kind: Format of the files.
    """
    found = []
    for shard in range(shards):
        receipt, part = receipt_name(shard, shards), predictions_name(shard, shards, kind)
        if receipt in files and part in files:
            with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # as damaged
                if json.loads(files[receipt].read_bytes())["fingerprint"] == fingerprint:
                    found.append(files[part])
    return found


def receipt_name(shard: int, shards: int) -> str:
    """Return the file name of a shard's receipt."""
    return f"_part-{shard:05d}-of-{shards:05d}.json"


@dataclass(frozen=True)
class JoinedFiles:
    """Files that are read as one.

    Attributes:
        pieces: Path, first byte, and the byte after the last one, of each file.
        size: Bytes of all pieces.
        version: Digest of the files' names, sizes and times of modification.
    """

    pieces: list[tuple[Path, int, int]]
    size: int
    version: str

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes between two offsets in chunks."""
        for path, first, end in self.pieces:
            size = end - first
            if start < size and stop > 0:
                with path.open("rb") as file:
                    file.seek(first + max(start, 0))
                    left = min(stop, size) - max(start, 0)
                    while chunk := file.read(min(CHUNK_BYTES, left)):
                        yield chunk
                        left -= len(chunk)
            start, stop = start - size, stop - size


def read_columns(folder: Path) -> dict[str, str] | None:
    """Return names and types of a result's columns; `None` for those of older versions."""
    try:
        columns: dict[str, str] = json.loads((folder / COLUMNS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return columns


def merge_files(
    paths: Sequence[Path], kind: Format, to: Format, columns: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """Return the rows of at least one file as one file in another format, in chunks.

    Args:
        paths: The files.
        kind: Their format.
        to: Format of the result.
        columns: See `read_columns`.
    """
    if can_join(paths, kind, to):
        joined = join_files(paths, kind)
        return joined.read(0, joined.size)
    from loupe.conversion import convert_files  # takes half a second and 100 MB

    return convert_files(paths, kind, to, columns)


def can_join(paths: Sequence[Path], kind: Format, to: Format) -> bool:
    """Return whether the files make one in another format without a conversion of their rows."""
    return kind == to and (kind != "parquet" or len(paths) == 1)


def join_files(paths: Sequence[Path], kind: Format) -> JoinedFiles:
    """Return files as one, with the header line only of the first CSV file."""
    pieces: list[tuple[Path, int, int]] = []
    hashed = hashlib.sha256()
    for path in paths:
        found = path.stat()
        start = _header_bytes(path) if kind == "csv" and pieces else 0
        pieces.append((path, start, found.st_size))
        hashed.update(f"{path.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    size = sum(end - start for _, start, end in pieces)
    return JoinedFiles(pieces, size, hashed.hexdigest())


def _header_bytes(path: Path) -> int:
    """Return the length of a CSV file's header; quoted names may contain line breaks."""
    size = quotes = 0
    with path.open("rb") as file:
        for line in file:
            size += len(line)
            quotes += line.count(b'"')
            if quotes % 2 == 0:
                break
    return size
