"""Open a source of images by its path; the first bytes of a file tell its kind."""

import glob
import zipfile
from collections.abc import Callable
from pathlib import Path

import bracex

from loupe.errors import InvalidRequest, InvalidSource
from loupe.files import ReadableFolders
from loupe.images.arrays.npy import NPY_MAGIC
from loupe.images.arrays.tables import Layout, read_head, read_layout
from loupe.images.folder import ANY_FOLDERS
from loupe.images.folder import files as list_files
from loupe.images.pool import DecoderPool
from loupe.images.selection import Skipped
from loupe.images.spec import ImageSpec
from loupe.jobs import DEFAULT_OPTIONS, FOLDER_LABELS, ScoringOptions
from loupe.settings import HttpsAccess
from worker.remote_path import RemotePath
from worker.sources.archives.tars import Tars, is_packed_tar, is_tar
from worker.sources.archives.zips import Zip
from worker.sources.arrays import ArraySource
from worker.sources.buckets import Bucket, split_remote_pattern
from worker.sources.checks import check_columns, check_kind, short
from worker.sources.collection import Collection
from worker.sources.folders import Folder, split_pattern
from worker.sources.manifests import Manifest
from worker.sources.mixed import FolderSource
from worker.sources.pictures import Decoder, PictureSource
from worker.sources.source import ImageSource
from worker.sources.tables.parquet import PARQUET_MAGIC, TableSource
from worker.sources.tables.pixels import PixelSource
from worker.storage import AnyPath, missing_files, open_file

MANIFESTS = frozenset({".csv", ".tsv", ".jsonl", ".ndjson"})
ZIP_MAGIC = b"PK\x03\x04"
TAR_SUFFIXES = (".tar", ".tgz", ".tbz2", ".txz", ".tzst")  # in names of patterns
MAX_FILES = 100_000  # that one pattern may name


def open_source(
    path: AnyPath,
    spec: ImageSpec,
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
        spec: Images of the model.
        max_pixels: Maximum width × height of a picture.
        options: Columns to read, and the array.
        https: Which addresses `https` URLs of a manifest may lead to.
        folders: Those that local files must be in, without patterns; all by default.
        decoders: Processes for pictures that are not tiny; by default, this process decodes all.
        check: Raises if the pictures are no longer needed.

    Raises:
        InvalidSource: If there is nothing, or if it lacks a requested column.
        InvalidRequest: If the labels are folders, and its records are in none.
    """
    source = _open(path, Decoder(spec, max_pixels, decoders, check), options, https, folders)
    if options.labels == FOLDER_LABELS and not isinstance(source, PictureSource | FolderSource):
        raise InvalidRequest(
            f"The records of '{path}' are in no folders that could be their labels. "
            "Folders, archives and manifests have some."
        )
    if options.array is not None and not isinstance(source, ArraySource):
        raise InvalidSource(
            f"'{path}' has no array {options.array!r}: it is not an .npz file.",
            code="array_not_found",
        )
    return source


def check_source(
    path: AnyPath,
    spec: ImageSpec,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    https: HttpsAccess = "none",
) -> None:
    """Refuse a source that clearly cannot be scored, before a job is made of it.

    Raises:
        InvalidSource, InvalidRequest: As `open_source`, or if it contains no images.
    """
    open_source(path, spec, 1, options, https=https).check()


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
        found = Folder(path, folders=folders) if isinstance(path, Path) else Bucket(path)
        return FolderSource(path, PictureSource(found, decoder), decoder, options, folders)
    if path.is_file():
        return _open_file(path, decoder, options, https, folders)
    if path.exists():
        raise InvalidSource(f"'{path}' is a pipe, socket or device, not a file or folder.")
    if folders is not None:
        raise _not_found(path)
    if ".parquet" in path.name:
        return TableSource(path, _match_files(path, "Parquet files"), decoder, options)
    return _pictures(path, _match(path, options), decoder, options)


def _open_file(
    path: AnyPath,
    decoder: Decoder,
    options: ScoringOptions,
    https: HttpsAccess,
    folders: ReadableFolders | None,
) -> ImageSource:
    with open_file(path, folders) as opened:
        head = read_head(opened)
    if head.startswith(PARQUET_MAGIC):
        return TableSource(path, [path], decoder, options, folders)
    if layout := _pixel_layout(path, head, decoder.spec):
        return PixelSource(path, layout, decoder.spec, options, folders)
    if path.suffix.lower() in MANIFESTS:
        check_kind(path, head, is_manifest=True)
        return PictureSource(Manifest(path, options, https=https, folders=folders), decoder)
    if archive := _open_archive(path, head, options, folders):
        return _pictures(path, archive, decoder, options)
    check_kind(path, head, is_manifest=False)
    check_columns(path, ScoringOptions(image_column=options.image_column), None)
    return ArraySource(path, decoder.spec, options, folders)


def _pictures(
    path: AnyPath, collection: Collection, decoder: Decoder, options: ScoringOptions
) -> PictureSource:
    """Return a source of pictures; raise `InvalidSource` for columns that it cannot have."""
    if isinstance(collection, Tars):
        options = ScoringOptions(id=options.id, image_column=options.image_column)
    check_columns(path, options, None)
    return PictureSource(collection, decoder)


def _pixel_layout(file: AnyPath, head: bytes, spec: ImageSpec) -> Layout | None:
    """Return the columns of a CSV of pixels; `None` for any other file."""
    try:
        return read_layout(head, spec)
    except ValueError as error:
        raise InvalidSource(f"'{file}' has {short(error)}.") from error


def _open_archive(
    file: AnyPath, head: bytes, options: ScoringOptions, folders: ReadableFolders | None
) -> Collection | None:
    """Return the archive that a file is, if it is one."""
    if is_tar(head) or is_packed_tar(file, head, folders):
        return Tars(str(file), [file], options.columns, folders)
    if file.suffix.lower() == ".npz" or head.startswith(NPY_MAGIC):
        return None
    if head.startswith(ZIP_MAGIC):
        return Zip(file, folders)
    with open_file(file, folders) as opened:  # a program may precede the archive
        return Zip(file, folders) if zipfile.is_zipfile(opened) else None


def _match(pattern: AnyPath, options: ScoringOptions) -> Collection:
    """Return the pictures or archives that match a pattern.

    All know `*`, `**`, `?` and `[…]`; those of archives know `{…}`, too.
    """
    if any(suffix in pattern.name for suffix in TAR_SUFFIXES):
        return Tars(str(pattern), _match_files(pattern, "tar archives"), options.columns)
    if glob.has_magic(str(pattern)):
        if isinstance(pattern, Path):
            return Folder(*split_pattern(str(pattern)))
        if pattern.protocol != "https":
            return Bucket(*split_remote_pattern(pattern))
    raise _not_found(pattern)


def _not_found(path: AnyPath) -> InvalidSource:
    return InvalidSource(f"There is no such file or folder: '{path}'.")


def _match_files(pattern: AnyPath, kind: str) -> list[AnyPath]:
    """Return the files that match a pattern, in order; raise `InvalidSource` if any is missing."""
    make = Path if isinstance(pattern, Path) else pattern.with_url
    names = bracex.expand(str(pattern), limit=MAX_FILES)
    files = [file for name in names for file in _match_one(make(name))]
    missing = missing_files(files) if files else []
    if missing == files:
        raise _not_found(pattern)
    if missing:
        raise InvalidSource(
            f"{len(missing)} of the {len(files)} {kind} of '{pattern}' are missing, "
            f"'{missing[0]}' for example."
        )
    return sorted(files, key=_sort_key)


def _match_one(name: AnyPath) -> list[AnyPath]:
    """Return the files that match a pattern without braces, or the file of that name."""
    if not glob.has_magic(str(name)):
        return [name]
    if isinstance(name, RemotePath):
        base, pattern = split_remote_pattern(name)
        return [base / found for found in base.find(pattern)]
    if ANY_FOLDERS not in name.parts:
        return [Path(found) for found in glob.glob(str(name))]  # noqa: PTH207
    folder, pattern = split_pattern(str(name))
    return [Path(folder, file) for file in list_files(folder, Skipped(), pattern=pattern)]


def _sort_key(file: AnyPath) -> tuple[str, ...]:
    return file.parts if isinstance(file, Path) else (file.url,)
