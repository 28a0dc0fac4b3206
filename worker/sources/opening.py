"""Open a source of images by its path; the first bytes of a file tell its kind."""

import glob
import zipfile
from collections.abc import Callable
from pathlib import Path

import bracex

from loupe.errors import InvalidRequest, InvalidSource
from loupe.files import ReadableFolders
from loupe.images.arrays import NPY_MAGIC
from loupe.images.pool import DecoderPool
from loupe.images.spec import Look
from loupe.images.tables import HEAD_BYTES, Layout, read_layout
from loupe.jobs import DEFAULT_OPTIONS, FOLDER_LABELS, ScoringOptions
from loupe.settings import HttpsAccess
from worker.sources.arrays import ArraySource
from worker.sources.buckets import Bucket, split_remote_pattern
from worker.sources.folders import Folder, split_pattern
from worker.sources.manifests import Manifest
from worker.sources.pictures import Collection, Decoder, PictureSource
from worker.sources.pixels import PixelSource
from worker.sources.source import ImageSource, check_columns, short
from worker.sources.tables import PARQUET_MAGIC, TableSource
from worker.sources.tars import Tars, is_tar
from worker.sources.zips import Zip
from worker.storage import AnyPath, missing_files, open_file

MANIFESTS = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
ZIP_MAGIC = b"PK\x03\x04"
MAX_TARS = 100_000  # that one pattern may name


def open_source(
    path: AnyPath,
    look: Look,
    max_pixels: int,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    https: HttpsAccess = "none",
    folders: ReadableFolders | None = None,
    decoders: DecoderPool | None = None,
    check: Callable[[], object] = lambda: None,
) -> ImageSource:
    """Open the source at a path.

    Args:
        path: A file, folder or pattern.
        look: Look of the model's training images.
        max_pixels: Maximum width × height of a picture.
        options: Columns to read, and the array.
        https: Which addresses `https` URLs of a manifest may lead to.
        folders: Those that local files must be in, without patterns; all by default.
        decoders: Processes for pictures that are not tiny; by default, this process decodes all.
        check: Raises if the pictures are no longer needed.

    Raises:
        InvalidSource: If there is nothing, or if it lacks a requested column.
        InvalidRequest: If folders are to be labels, and its records are in none.
    """
    source = _open(path, Decoder(look, max_pixels, decoders, check), options, https, folders)
    if options.labels == FOLDER_LABELS and not isinstance(source, PictureSource):
        raise InvalidRequest(
            f"The records of '{path}' are in no folders that could be their labels. "
            "Folders, archives and manifests have some."
        )
    if options.array is not None and not isinstance(source, ArraySource):
        raise InvalidSource(
            f"'{path}' has no array {options.array!r}: it is no .npz.", code="array_not_found"
        )
    return source


def check_source(
    path: AnyPath, options: ScoringOptions = DEFAULT_OPTIONS, *, https: HttpsAccess = "none"
) -> None:
    """Refuse a source that clearly cannot be scored, before a job is made of it.

    Raises:
        InvalidSource, InvalidRequest: As `open_source`, or if it contains no images.
    """
    open_source(path, "ink", 1, options, https=https).check()


def _open(
    path: AnyPath,
    decoder: Decoder,
    options: ScoringOptions,
    https: HttpsAccess,
    folders: ReadableFolders | None,
) -> ImageSource:
    """Return the source of the kind that the path has."""
    if folders is not None and not (isinstance(path, Path) and folders.hold(path)):
        raise InvalidSource(f"'{path}' is not below a folder that jobs may read.")
    if path.is_dir():
        found: Collection | None = (
            Folder(path, folders=folders) if isinstance(path, Path) else Bucket(path)
        )
    elif folders is None and not path.exists():
        found = _match(path)
    elif not path.is_file():
        if not path.exists():
            raise _not_found(path)
        raise InvalidSource(f"'{path}' is a pipe, socket or device, not a file or folder.")
    else:
        with open_file(path, folders) as opened:
            head = opened.read(HEAD_BYTES)
        if head.startswith(PARQUET_MAGIC):
            return TableSource(path, [path], decoder, options, folders)
        if layout := _pixel_layout(path, head):
            return PixelSource(path, layout, options, folders)
        if path.suffix.lower() in MANIFESTS:
            manifest = Manifest(path, options, https=https, folders=folders)
            return PictureSource(manifest, decoder, options.columns)
        found = _open_archive(path, head, folders)
    if found is None:
        check_columns(path, ScoringOptions(image_column=options.image_column), None)
        return ArraySource(path, options, folders)
    check_columns(path, options, None)
    return PictureSource(found, decoder)


def _pixel_layout(file: AnyPath, head: bytes) -> Layout | None:
    """Return the columns of a CSV of pixels; `None` for any other file."""
    try:
        return read_layout(head)
    except ValueError as error:
        raise InvalidSource(f"'{file}' has {short(error)}.") from error


def _open_archive(file: AnyPath, head: bytes, folders: ReadableFolders | None) -> Collection | None:
    """Return the archive that a file is, if it is one."""
    if is_tar(head):
        return Tars(str(file), [file], folders)
    if file.suffix.lower() == ".npz" or head.startswith(NPY_MAGIC):
        return None
    if head.startswith(ZIP_MAGIC):
        return Zip(file, folders)
    with open_file(file, folders) as opened:  # a program may precede the archive
        return Zip(file, folders) if zipfile.is_zipfile(opened) else None


def _match(pattern: AnyPath) -> Collection:
    """Return the pictures or archives that match a pattern of `*`, `**`, `?`, `[…]` and `{…}`."""
    if ".tar" in pattern.name:
        names = bracex.expand(str(pattern), limit=MAX_TARS)
        make = Path if isinstance(pattern, Path) else pattern.with_url
        archives = [archive for name in names for archive in _match_tars(make(name))]
        if missing := missing_files(archives):
            raise InvalidSource(
                f"{len(missing)} of the {len(archives)} tar archives of '{pattern}' are missing, "
                f"'{missing[0]}' for example."
            )
        if archives:
            return Tars(str(pattern), sorted(archives, key=_sort_key))
    elif glob.has_magic(str(pattern)):
        if isinstance(pattern, Path):
            return Folder(*split_pattern(str(pattern)))
        if pattern.protocol != "https":
            return Bucket(*split_remote_pattern(pattern))
    raise _not_found(pattern)


def _not_found(path: AnyPath) -> InvalidSource:
    return InvalidSource(f"There is no such file or folder: '{path}'.")


def _match_tars(name: AnyPath) -> list[AnyPath]:
    if not glob.has_magic(str(name)):
        return [name]
    if isinstance(name, Path):
        return [Path(found) for found in glob.glob(str(name))]  # noqa: PTH207
    folder, pattern = split_remote_pattern(name)
    return [folder / found for found in folder.find(pattern)]


def _sort_key(file: AnyPath) -> tuple[str, ...]:
    return file.parts if isinstance(file, Path) else (file.url,)
