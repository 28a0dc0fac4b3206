"""Pictures in tar archives, for example WebDataset's. Nothing is extracted to disk."""

import lzma
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO, cast

import pyarrow as pa
from indexed_gzip import IndexedGzipFile

from loupe.errors import InvalidImage, LoupeError
from loupe.files import ReadableFolders, max_unpacked_bytes
from loupe.images.archives import member_path, tar_members
from loupe.images.arrays.idx import GZIP_MAGIC
from loupe.images.formats import HEAD_BYTES
from loupe.images.selection import Reason, why_skipped
from worker.remote_path import RemotePath
from worker.sources.archives.members import why_member_refused
from worker.sources.archives.samples import Sample
from worker.sources.archives.unpacking import (
    MAGIC_BYTES,
    UnpackedFile,
    compression_of,
    open_stream,
)
from worker.sources.checks import damaged
from worker.sources.collection import Collection, Entry, ReadEntry, is_link
from worker.storage import AnyPath, ReadAt, open_file, open_ranges, size_of, unwrap

# An index of gzip keeps 32 kB of memory for every `spacing` unpacked bytes. These limits keep it
# small: archives of pictures hardly compress.
MAX_COMPRESSION = 10
SMALL_BYTES = 2**31  # up to this size, archives may be compressed more
MIN_SPACING, MAX_POINTS = 2**20, 1024  # bytes between points; points for each packed size
DAMAGE = (
    *(tarfile.TarError, lzma.LZMAError, pa.ArrowException),
    *(OSError, EOFError, RecursionError),
)


class Tars(Collection):
    """The picture files of tar archives in their order.

    Ids are their paths. Of several archives, the path of the archive below the folder that all
    share comes first.
    """

    replaces = True

    def __init__(
        self,
        path: str,
        files: Sequence[AnyPath],
        columns: Sequence[str] = (),
        folders: ReadableFolders | None = None,
    ) -> None:
        super().__init__(path, files, folders)
        self.columns = columns

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        names = _names_below_common_folder(self.files)
        for number, (archive, name) in enumerate(zip(self.files, names, strict=True)):
            prefix = f"{name}/" if len(self.files) > 1 else ""
            try:
                with _open(archive, None, self.folders, _copy(index, number)) as file:
                    members = tar_members(file, _max_unpacked_bytes(archive))
                    for entry in self._entries(members, file):
                        if is_link(entry):
                            self.has_links = True
                            location = [prefix + entry.location[0]]
                        else:
                            location = [number, *entry.location]
                        yield entry._replace(id=prefix + entry.id, location=location)
                    if index is not None and isinstance(file, IndexedGzipFile):
                        file.export_index(str(_gzip_index(index, number)))
            except DAMAGE as error:
                raise damaged(f"tar archive '{archive}'", error) from error

    def _entries(self, members: Iterator[tarfile.TarInfo], archive: IO[bytes]) -> Iterator[Entry]:
        """Yield the pictures of one archive, with the columns of their samples."""
        sample = Sample(self.path, self.columns)
        for member in members:
            if self.columns:
                if not sample.holds(member.name):
                    yield from sample.entries()
                    sample = sample.next(member.name)
                if sample.add_column(member, archive):
                    continue
            if reason := _why_skipped(member, archive):
                self.skipped.add(reason, member.name)
                continue
            location: list[int | str] = [member.offset_data, member.size]
            if member.islnk():
                location = [member_path(member.linkname)]
            entry = Entry(member.name, location, _why_refused(member))
            if self.columns:
                sample.add_picture(entry)
            else:
                yield entry
        yield from sample.entries()

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`."""
        ranges: dict[int, list[tuple[int, int]]] = {}
        for number, offset, size in (entry.location for entry in entries):
            ranges.setdefault(number, []).append((offset, offset + size))
        with ExitStack() as stack:
            archives = {
                number: stack.enter_context(
                    _open_ranges(self.files[number], index, number, members, self.folders)
                )
                for number, members in ranges.items()
            }

            def read(entry: Entry) -> bytes:
                number, offset, size = entry.location
                data = archives[number](size, offset)
                if len(data) < size:
                    raise InvalidImage(
                        f"The tar archive ends after {len(data):,} of the member's {size:,} bytes."
                    )
                return data

            yield read

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        number, _, size = entry.location
        return int(size) if isinstance(self.files[number], RemotePath) else 0


def _names_below_common_folder(archives: Sequence[AnyPath]) -> list[str]:
    parts = [str(archive).split("/") for archive in archives]
    levels = zip(*(folders for *folders, _ in parts), strict=False)
    shared = len(list(takewhile(lambda level: len({*level}) == 1, levels)))
    return ["/".join(names[shared:]) for names in parts]


def is_tar(head: bytes) -> bool:
    """Return whether a file with these first bytes is a tar archive, gzipped or not."""
    try:
        if head.startswith(GZIP_MAGIC):
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, tarfile.BLOCKSIZE)
        header = tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except (tarfile.HeaderError, zlib.error):
        return False
    return header.chksum > 0


def _gzip_index(index: Path, number: int) -> Path:
    return index / f"{number:05d}.gzidx"


def is_packed_tar(archive: AnyPath, head: bytes, folders: ReadableFolders | None) -> bool:
    """Return whether a file with these first bytes is a tar archive of another compression."""
    if compression_of(head) is None:
        return False
    try:
        with _open(archive, None, folders) as file:
            return is_tar(file.read(tarfile.BLOCKSIZE))
    except DAMAGE:
        return False


def _copy(index: Path | None, number: int) -> Path | None:
    """Return the file of an index that keeps an unpacked archive."""
    return None if index is None else index / f"{number:05d}.tar"


@contextmanager
def _open(
    archive: AnyPath,
    gzip_index: Path | None,
    folders: ReadableFolders | None,
    copy: Path | None = None,
) -> Iterator[IO[bytes]]:
    """Open an archive for reading, unpacked; with an index, random access is fast.

    Args:
        archive: The archive.
        gzip_index: Index of a gzipped one.
        folders: Those that a local archive must be in; all by default.
        copy: File that keeps what cannot be read from the middle; a temporary one by default.
    """
    with open_file(archive, folders) as file, ExitStack() as stack:
        head = file.read(MAGIC_BYTES)
        is_gzipped = gzip_index is not None or head.startswith(GZIP_MAGIC)
        file.seek(0)
        if compression := compression_of(head):
            kept = copy.open("w+b") if copy else tempfile.TemporaryFile()  # noqa: SIM115
            stack.enter_context(kept)
            limit = min(_max_unpacked_bytes(archive), max_unpacked_bytes(size_of(archive)))
            stream = open_stream(file, compression)
            file = cast("IO[bytes]", UnpackedFile(stream, kept, limit))
        if is_gzipped:
            is_free = isinstance(archive, Path) and folders is None
            source = {"filename": str(archive)} if is_free else {"fileobj": file}
            index = None if gzip_index is None else str(gzip_index)
            spacing = max(MIN_SPACING, size_of(archive) // MAX_POINTS)
            unpacked = IndexedGzipFile(**source, index_file=index, spacing=spacing)
            file = stack.enter_context(unpacked)
            stack.enter_context(_uncover_storage_errors())
        yield file


@contextmanager
def _uncover_storage_errors() -> Iterator[None]:
    """Raise an error of the storage itself, which indexed_gzip wraps."""
    try:
        yield
    except OSError as error:
        if isinstance(error.__cause__, LoupeError):
            raise error.__cause__ from None
        raise


@contextmanager
def _open_ranges(
    archive: AnyPath,
    index: Path,
    number: int,
    ranges: Sequence[tuple[int, int]],
    folders: ReadableFolders | None,
) -> Iterator[ReadAt]:
    """Open an archive like `open_ranges`; use what the plan's index has for it."""
    gzip_index, copy = _gzip_index(index, number), _copy(index, number)
    if copy and copy.exists():
        with open_ranges(copy, ranges) as read_at:
            yield read_at
    elif not gzip_index.exists():
        with open_ranges(archive, ranges, folders) as read_at:
            yield read_at
    elif isinstance(archive, Path):
        with _open(archive, gzip_index, folders) as file:
            yield cast("IndexedGzipFile", file).pread
    else:
        with _open(archive, gzip_index, folders) as file:
            fetched = {
                (stop - start, start): _try_read(file, stop - start, start)
                for start, stop in ranges
            }
        yield lambda size, offset: unwrap(fetched[size, offset])


def _try_read(file: IO[bytes], size: int, offset: int) -> bytes | OSError:
    """Return a part of an unpacked archive, or the error of reading it."""
    try:
        with _uncover_storage_errors():
            return cast("IndexedGzipFile", file).pread(size, offset)  # type: ignore[no-any-return]
    except OSError as error:
        return error


def _max_unpacked_bytes(archive: AnyPath) -> int:
    return max(SMALL_BYTES, MAX_COMPRESSION * size_of(archive))


def _why_skipped(member: tarfile.TarInfo, archive: IO[bytes]) -> Reason | None:
    """See `why_skipped`. Links, pipes and devices are never opened."""

    def read_head() -> bytes:
        if not member.isreg():
            return b""
        archive.seek(member.offset_data)
        return archive.read(min(member.size, HEAD_BYTES))

    reason = why_skipped(member.name, read_head)
    return "not_a_file" if reason == "not_a_picture" and not member.isreg() else reason


def _why_refused(member: tarfile.TarInfo) -> str | None:
    if member.issym():
        return "The member is a symbolic link."
    if not (member.isreg() or member.islnk()) or member.issparse():
        return "The member is not a regular file."
    return why_member_refused(member.name, member.size, member.size)
