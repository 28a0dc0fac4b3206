"""The pictures of a job's source, for people who look through its rows."""

import tarfile
import zipfile
import zlib
from functools import lru_cache
from itertools import islice
from pathlib import Path

from loupe.errors import NotFound
from loupe.files import is_below, open_regular
from loupe.images.archives import tar_members
from loupe.images.formats import HEAD_BYTES, format_of
from loupe.settings import Settings
from service.http.validation import shown
from service.jobs.array_pictures import is_array, read_row

TAR_MAGIC = slice(257, 262)  # of a header
MAX_PICTURE_BYTES = 16 * 2**20
MAX_MEMBERS = 65_000  # of a tar archive
MAX_INDEX_BYTES = 4 * 2**20  # of an archive: about 65,000 files, and ten times the memory
# The end of an archive. Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.16
END, END_BYTES, INDEX_SIZE, LOCATOR = b"PK\5\6", 22, slice(12, 16), b"PK\6\7"
LOCATOR_BYTES, MAX_COMMENT = 20, 2**16  # the locator of larger archives precedes the end
DAMAGES = (
    *(OSError, LookupError, ValueError, RuntimeError, EOFError),
    *(zlib.error, zipfile.BadZipFile, tarfile.TarError),
)
MEDIA_TYPES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WebP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "AVIF": "image/avif",
    "ICO": "image/x-icon",
    "TIFF": "image/tiff",
    "HEIC": "image/heic",
    "JPEG 2000": "image/jp2",
}


def read_picture(source: str, row: str, settings: Settings) -> tuple[bytes, str]:
    """Return a picture of an uploaded archive or array, or of a folder, and its media type.

    Args:
        source: The source of a job.
        row: The id of a row: a path in the source, or the number of a row.
        settings: Their roots say which folders callers may read.

    Raises:
        NotFound: If there is no such picture, or the source is of another kind (code
            `picture_not_found`).
    """
    try:
        content = _read(Path(source).resolve(), row, settings)
    except DAMAGES:
        content = None
    kind = None if content is None else format_of(content[:HEAD_BYTES])
    if content is None or kind is None or not kind.is_read:
        raise NotFound(
            f"The source has no picture {shown(row)}. Only folders, zip and uncompressed tar "
            "archives, .npy and IDX files, uploaded or below LOUPE_JOB_ROOTS, can show theirs.",
            code="picture_not_found",
        )
    return content, MEDIA_TYPES.get(kind.name, "application/octet-stream")


def _read(source: Path, row: str, settings: Settings) -> bytes | None:
    uploads = (settings.home / "jobs").resolve()
    roots = [str(root.resolve()) for root in (uploads, *settings.source_roots)]
    if not any(is_below(str(source), root) for root in roots):
        return None
    if source.is_file():
        with open_regular(source) as file:
            head = file.read(tarfile.BLOCKSIZE)
            file.seek(0)
            if is_array(head):
                return read_row(source, file, int(row), MAX_PICTURE_BYTES)
        read = _read_tar if head[TAR_MAGIC] == b"ustar" else _read_zip
        content = read(source, row)
    else:
        path = (source / row).resolve()
        if not is_below(str(path), str(source)):
            return None
        with open_regular(path) as file:
            content = file.read(MAX_PICTURE_BYTES + 1)
    return content if len(content) <= MAX_PICTURE_BYTES else None


def _read_zip(source: Path, row: str) -> bytes:
    status = source.stat()
    archive = _zip_index(source, status.st_mtime_ns, status.st_size)
    if archive.getinfo(row).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("other methods may take gigabytes")
    with archive.open(row) as member:
        return member.read(MAX_PICTURE_BYTES + 1)


def _read_tar(source: Path, row: str) -> bytes:
    status = source.stat()
    offset, size = _tar_index(source, status.st_mtime_ns, status.st_size)[row]
    with open_regular(source) as file:
        file.seek(offset)
        return file.read(min(size, MAX_PICTURE_BYTES + 1))


@lru_cache(maxsize=2)
def _tar_index(path: Path, modified_ns: int, size: int) -> dict[str, tuple[int, int]]:
    """Return the offsets and sizes of the files of a tar archive.

    Raises:
        ValueError: If it has too many members.
    """
    with open_regular(path) as file:
        members = list(islice(tar_members(file, size), MAX_MEMBERS + 1))
    if len(members) > MAX_MEMBERS:
        raise ValueError("the archive has too many members")
    return {each.name: (each.offset_data, each.size) for each in members if each.isreg()}


@lru_cache(maxsize=2)
def _zip_index(path: Path, modified_ns: int, size: int) -> zipfile.ZipFile:
    """Return an open archive, whose index takes seconds to read if it is large.

    Raises:
        ValueError: If it is none, or has too many files.
    """
    with path.open("rb") as file:
        file.seek(max(size - MAX_COMMENT - END_BYTES - LOCATOR_BYTES, 0))
        tail = file.read()
    at = len(tail) - END_BYTES
    if not tail[max(at, 0) :].startswith(END):  # a comment follows it
        at = tail.rfind(END)
    index_bytes = int.from_bytes(tail[at:][INDEX_SIZE], "little")
    is_large = tail[: max(at, 0)][-LOCATOR_BYTES:].startswith(LOCATOR)
    if at < 0 or is_large or index_bytes > MAX_INDEX_BYTES:
        raise ValueError("the archive is none, or has too many files")
    return zipfile.ZipFile(path)
