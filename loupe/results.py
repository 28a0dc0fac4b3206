"""Files of a bulk-scoring job's results: their names, and their rows as one file of any format.

Light to import: `loupe.conversion`, which needs pyarrow, is imported only where it is needed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

Format = Literal["parquet", "csv", "jsonl"]

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


def find_predictions(folder: Path, kind: Format) -> list[Path]:
    """Return the prediction files of an output folder in their order."""
    single = folder / single_name(kind)
    return [single] if single.exists() else sorted(folder.glob(f"predictions-*-of-*.{kind}"))


def find_errors(folder: Path) -> list[Path]:
    """Return the files with errors of an output folder in their order."""
    return sorted(folder.glob("_errors-*.jsonl"))


def merge_files(paths: Sequence[Path], kind: Format, to: Format) -> Iterator[bytes]:
    """Return the rows of at least one file as one file in another format, in chunks."""
    if kind == to and (kind != "parquet" or len(paths) == 1):
        return concatenate_files(paths, has_header=kind == "csv")
    from loupe.conversion import convert_files  # takes half a second and 100 MB

    return convert_files(paths, kind, to)


def concatenate_files(paths: Sequence[Path], *, has_header: bool = False) -> Iterator[bytes]:
    """Yield the bytes of all files, with the header line only of the first."""
    for number, path in enumerate(paths):
        with path.open("rb") as file:
            if has_header and number:
                _skip_header(file)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def _skip_header(file: BinaryIO) -> None:
    """Read the header of a CSV file; quoted names of columns may contain line breaks."""
    quotes = 0
    for line in file:
        quotes += line.count(b'"')
        if quotes % 2 == 0:
            return
