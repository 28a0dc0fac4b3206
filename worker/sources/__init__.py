"""What can be scored: folders and patterns of picture files, archives, tables and arrays of them. One module for each."""

import glob
import zipfile
from pathlib import Path

import bracex

from loupe.errors import ColumnNotFound, InvalidRequest, InvalidSource
from loupe.images import Look
from worker.jobs import DEFAULT_OPTIONS, FOLDER_LABELS, Options
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


def open_source(path: Path, look: Look, max_pixels: int, options: Options = DEFAULT_OPTIONS) -> Source:
    """The source at a path; what a file is, its first bytes say, but for manifests.

    Args:
        path: Where it is.
        look: How the model's training images look.
        max_pixels: Most pixels of a picture, width × height.
        options: What is read of it besides images.

    Raises:
        InvalidSource: If there is nothing.
        ColumnNotFound: If columns are to be read, and it has none.
    """
    decoder = Decoder(look, max_pixels)
    found = _find(path, options)
    if isinstance(found, Path) and _begins_with(found, PARQUET_MAGIC):
        return TableSource(found, decoder, options)
    if not isinstance(found, Manifest):
        for column in [*([options.id] if options.id else []), *options.columns]:
            raise ColumnNotFound(str(path), column, [])
    return ArraySource(found) if isinstance(found, Path) else PictureSource(found, decoder, options.columns)


def check_source(path: Path, options: Options = DEFAULT_OPTIONS) -> None:
    """Refuse what is clearly nothing to score, before a job is made of it.

    Raises:
        InvalidSource: If there is nothing, no picture in a collection, or no array in a file.
        ColumnNotFound: If it does not have a column that is to be read.
        InvalidRequest: If folders are to be labels, and its records lie in none.
    """
    source = open_source(path, "ink", 1, options)
    if options.labels == FOLDER_LABELS and not isinstance(source, PictureSource):
        raise InvalidRequest("a folder, an archive or a manifest for labels that are names of folders", f"'{path}'")
    source.check()


def _find(path: Path, options: Options) -> Collection | Path:
    """The collection at a path, or the file that is none."""
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        return _pattern(str(path))
    if path.suffix.lower() in MANIFESTS:
        return Manifest(path, options)
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
