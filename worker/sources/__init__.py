"""What can be scored: folders and patterns of picture files, archives, tables and arrays of them. One module for each."""

import glob
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bracex

from loupe.images.spec import Look
from loupe.jobs import DEFAULT_OPTIONS, FOLDER_LABELS, ScoringOptions
from loupe.old_errors.service import InvalidRequest
from loupe.old_errors.worker import ColumnNotFound, InvalidSource
from worker.sources.arrays import NPY_MAGIC, ArraySource
from worker.sources.buckets import Bucket, BucketPattern, matching
from worker.sources.folders import Folder, Pattern
from worker.sources.manifests import Manifest
from worker.sources.pictures import Collection, Decoder, PictureSource
from worker.sources.source import (
    BatchReader,
    ImageSource,
    Records,
    ShardPlan,
    check_unchanged,
    printable,
)
from worker.sources.tables import PARQUET_MAGIC, TableSource
from worker.sources.tars import Tars, is_tar
from worker.sources.zips import Zip
from worker.storage import AnyPath, RemotePath, missing_files

__all__ = [
    "BatchReader",
    "ImageSource",
    "Records",
    "ShardPlan",
    "check_source",
    "check_unchanged",
    "open_source",
    "printable",
]

MANIFESTS = frozenset({".csv", ".jsonl", ".ndjson"})
ZIP_MAGIC = b"PK\x03\x04"
HEAD_BYTES = 4096  # of a file, to see what it is
MOST_TARS = 100_000  # that one pattern may stand for


def open_source(
    place: AnyPath,
    look: Look,
    max_pixels: int,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    https: bool = False,
) -> ImageSource:
    """The source at a place; what a file is, its first bytes say, but for manifests.

    Args:
        place: Where it is.
        look: How the model's training images look.
        max_pixels: Most pixels of a picture, width × height.
        options: What is read of it besides images.
        https: Whether a manifest may name URLs of `https`.

    Raises:
        InvalidSource: If there is nothing.
        ColumnNotFound: If columns are to be read, and it has none.
    """
    decoder = Decoder(look, max_pixels)
    found = _find(place, options, https)
    if isinstance(found, _Table):
        return TableSource(found.file, decoder, options)
    if not isinstance(found, Manifest):
        for column in [*([options.id] if options.id else []), *options.columns]:
            raise ColumnNotFound(str(place), column, [])
    if isinstance(found, Path | RemotePath):
        return ArraySource(found)
    return PictureSource(found, decoder, options.columns)


def check_source(
    place: AnyPath, options: ScoringOptions = DEFAULT_OPTIONS, *, https: bool = False
) -> None:
    """Refuse what is clearly nothing to score, before a job is made of it.

    Raises:
        InvalidSource: If there is nothing, no picture in a collection, or no array in a file.
        ColumnNotFound: If it does not have a column that is to be read.
        InvalidRequest: If folders are to be labels, and its records lie in none.
    """
    source = open_source(place, "ink", 1, options, https=https)
    if options.labels == FOLDER_LABELS and not isinstance(source, PictureSource):
        raise InvalidRequest(
            "a folder, an archive or a manifest for labels that are names of folders", f"'{place}'"
        )
    source.check()


@dataclass(frozen=True)
class _Table:
    """A Parquet file."""

    file: AnyPath


def _find(place: AnyPath, options: ScoringOptions, https: bool) -> Collection | _Table | AnyPath:
    """The collection at a place, the table, or the file that is neither."""
    if place.is_dir():
        return Folder(place) if isinstance(place, Path) else Bucket(place)
    if not place.exists():
        return _pattern(place)
    if place.suffix.lower() in MANIFESTS:
        return Manifest(place, options, https=https)
    with place.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    if is_tar(head):
        return Tars(str(place), [place])
    if head.startswith(PARQUET_MAGIC):
        return _Table(place)
    if place.suffix.lower() != ".npz" and (
        head.startswith(ZIP_MAGIC) or _ends_as_a_zip(place, head)
    ):
        return Zip(place)
    return place


def _ends_as_a_zip(file: AnyPath, head: bytes) -> bool:
    if head.startswith(NPY_MAGIC):
        return False
    with file.open("rb") as opened:
        return zipfile.is_zipfile(opened)


def _pattern(place: AnyPath) -> Collection:
    """Picture files or tar archives that a pattern stands for, as a shell would have it: `*`, `**`, `?`, `[…]`, `{…}`."""
    pattern = str(place)
    if ".tar" in pattern.rpartition("/")[2]:
        archives = _tars(place, bracex.expand(pattern, limit=MOST_TARS))
        if gone := missing_files(archives):
            raise InvalidSource(
                pattern,
                f"{len(gone)} of {len(archives)} tar archives that are not there, '{gone[0]}' for one",
            )
        if archives:
            return Tars(pattern, archives)
    elif glob.has_magic(pattern) and isinstance(place, Path):
        return Pattern(pattern)
    elif glob.has_magic(pattern) and isinstance(place, RemotePath) and place.protocol != "https":
        return BucketPattern(place)
    raise InvalidSource(pattern, "nothing; no such file or folder")


def _tars(place: AnyPath, names: Sequence[str]) -> Sequence[AnyPath]:
    """The places of tar archives, each told by its name or by a pattern."""
    if isinstance(place, Path):
        return sorted(
            Path(path)
            for name in names
            for path in (glob.glob(name) if glob.has_magic(name) else [name])  # noqa: PTH207
        )
    remote = [RemotePath(name, place.protocol) for name in names]
    found = [
        each for name in remote for each in (matching(name) if glob.has_magic(name.url) else [name])
    ]
    return sorted(found, key=str)
