"""The results of a bulk-scoring job: what its files are called, and the rows of all of them as one file of any format.

Light to import; what knows the formats from inside is in `loupe.conversion`, and imported where files are not simply strung together.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

Format = Literal["parquet", "csv", "jsonl"]

CHUNK_BYTES = 2**18  # read at a time


def predictions_name(shard: int, shards: int, kind: Format = "parquet") -> str:
    """File name of a shard's predictions."""
    return f"predictions-{shard:05d}-of-{shards:05d}.{kind}"


def single_name(kind: Format) -> str:
    """File name of all predictions, where they are in one file."""
    return f"predictions.{kind}"


def errors_name(shard: int, shards: int) -> str:
    """File name of a shard's errors."""
    return f"_errors-{shard:05d}-of-{shards:05d}.jsonl"


def find_predictions(folder: Path, kind: Format) -> list[Path]:
    """The files in an output folder that together hold its predictions, in their order; none where nothing was written."""
    single = folder / single_name(kind)
    return [single] if single.exists() else sorted(folder.glob(f"predictions-*-of-*.{kind}"))


def find_errors(folder: Path) -> list[Path]:
    """The files in an output folder that together hold its errors, in their order."""
    return sorted(folder.glob("_errors-*.jsonl"))


def as_one_file(paths: Sequence[Path], kind: Format, wanted: Format) -> Iterator[bytes]:
    """The rows of many files, at least one, as one file in pieces of some 100 KB.

    Args:
        paths: In the order of their rows.
        kind: What they are.
        wanted: What the one file is to be.
    """
    if kind == wanted and (kind != "parquet" or len(paths) == 1):
        return joined(paths, with_header=kind == "csv")
    from loupe.conversion import converted  # takes half a second, and 100 MB

    return converted(paths, kind, wanted)


def joined(paths: Sequence[Path], *, with_header: bool = False) -> Iterator[bytes]:
    """The bytes of files behind each other; the line of a header only of the first one."""
    for number, path in enumerate(paths):
        with path.open("rb") as file:
            if with_header and number:
                file.readline()  # no class has a line break in its name
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
