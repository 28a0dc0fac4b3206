"""What can be scored: folders and patterns of picture files, archives, tables and arrays of them. One module for each."""

import glob
import zipfile
from pathlib import Path

import bracex

from loupe.errors import InvalidSource
from loupe.images import Look
from worker.sources.arrays import ArraySource
from worker.sources.folders import Folder, Pattern
from worker.sources.manifests import Manifest
from worker.sources.pictures import Collection, Decoder, PictureSource
from worker.sources.source import Batch, Plan, Records, Source, printable
from worker.sources.tables import PARQUET_MAGIC, TableSource
from worker.sources.tars import Tars, is_tar
from worker.sources.zips import Zip

__all__ = ["Batch", "Plan", "Records", "Source", "check_source", "open_source", "printable"]

MANIFESTS = frozenset({".csv", ".jsonl", ".ndjson"})
ZIP_MAGIC = b"PK\x03\x04"
MOST_TARS = 100_000  # that one pattern may stand for


def open_source(path: Path, look: Look, max_pixels: int) -> Source:
    """The source at a path; what a file is, its first bytes say, but for manifests.

    Raises:
        InvalidSource: If there is nothing.
    """
    decoder = Decoder(look, max_pixels)
    found = _find(path)
    if isinstance(found, Path):
        return TableSource(found, decoder) if _begins_with(found, PARQUET_MAGIC) else ArraySource(found)
    return PictureSource(found, decoder)


def check_source(path: Path) -> None:
    """Refuse what is clearly nothing to score, before a job is made of it.

    Raises:
        InvalidSource: If there is nothing, no picture in a collection, or no array in a file.
    """
    open_source(path, "ink", 1).check()


def _find(path: Path) -> Collection | Path:
    """The collection at a path, or the file that is none."""
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        return _pattern(str(path))
    if path.suffix.lower() in MANIFESTS:
        return Manifest(path)
    if is_tar(path):
        return Tars(str(path), [path])
    if path.suffix.lower() != ".npz" and (_begins_with(path, ZIP_MAGIC) or zipfile.is_zipfile(path)):
        return Zip(path)
    return path


def _pattern(pattern: str) -> Collection:
    """Picture files or tar archives that a pattern stands for, as a shell would have it: `*`, `**`, `?`, `[…]`, `{…}`."""
    names = bracex.expand(pattern, limit=MOST_TARS)
    if ".tar" in pattern.rpartition("/")[2]:
        paths = sorted(Path(path) for name in names for path in (glob.glob(name) if glob.has_magic(name) else [name]))  # noqa: PTH207
        if missing := [path for path in paths if not path.is_file()]:
            raise InvalidSource(
                pattern, f"{len(missing)} of {len(paths)} tar archives that are not there, '{missing[0]}' for one"
            )
        if paths:
            return Tars(pattern, paths)
    elif glob.has_magic(pattern):
        return Pattern(pattern)
    raise InvalidSource(pattern, "nothing; no such file or folder")


def _begins_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic
