"""Pictures in tar archives, also many of them, as WebDataset's shards are. Nothing is ever written to disk."""

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from indexed_gzip import IndexedGzipFile

from loupe.errors import InvalidImage, LoupeError
from loupe.images.decode import SUFFIXES
from loupe.images.idx import GZIP_MAGIC
from loupe.old_errors.worker import InvalidSource
from worker.sources.folders import is_picture
from worker.sources.members import why_refused
from worker.sources.pictures import Entry, Read
from worker.sources.source import stamp
from worker.storage import AnyPath, ReadAt, RemotePath, open_ranges, unwrap

LONGEST_HEADER_BYTES = (
    2**20
)  # of names and attributes; tarfile reads whatever length an archive claims


class Tars:
    """The picture files of tar archives, in their order; ids are their paths, after the archive's name where there are several."""

    nothing = f"a tar archive without {', '.join(sorted(SUFFIXES))} files"
    quick = True

    def __init__(self, where: str, files: Sequence[AnyPath]) -> None:
        self.where = where
        self._files = files

    def stamp(self) -> str:
        """See `Collection.stamp`."""
        return stamp(*self._files)

    def entries(self, notes: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        for number, archive in enumerate(self._files):
            before = f"{archive.name}/" if len(self._files) > 1 else ""
            try:
                with _opened(archive) as file:
                    for member in _members(cast("BinaryIO", _Sober(file))):
                        where = [number, member.offset_data, member.size]
                        yield Entry(before + member.name, where, _why_refused(member))
                    if notes is not None and isinstance(file, IndexedGzipFile):
                        file.export_index(str(_index(notes, number)))
            except (tarfile.TarError, OSError, EOFError) as error:
                raise InvalidSource(
                    self.where, f"a damaged tar archive '{archive}' ({error})"
                ) from error

    @contextmanager
    def reading(self, entries: Sequence[Entry], notes: Path) -> Iterator[Read]:
        """See `Collection.reading`."""
        ranges: dict[int, list[tuple[int, int]]] = {}
        for number, offset, size in (entry.where for entry in entries):
            ranges.setdefault(number, []).append((offset, offset + size))
        with ExitStack() as stack:
            read_at = {
                number: stack.enter_context(
                    _reading_at(self._files[number], _index(notes, number), wanted)
                )
                for number, wanted in ranges.items()
            }

            def read(entry: Entry) -> bytes:
                number, offset, size = entry.where
                data = read_at[number](size, offset)
                if len(data) < size:
                    raise InvalidImage(
                        f"The tar archive ends after {len(data):,} of {size:,} bytes of this file."
                    )
                return data

            yield read

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        number, _, size = entry.where
        return int(size) if isinstance(self._files[number], RemotePath) else 0


def is_tar(head: bytes) -> bool:
    """Whether the first bytes of a file, gzipped or not, are those of a tar archive."""
    try:
        if head.startswith(GZIP_MAGIC):
            head = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, tarfile.BLOCKSIZE)
        return (
            tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape").chksum
            > 0
        )
    except (tarfile.HeaderError, zlib.error):
        return False


def _index(notes: Path, number: int) -> Path:
    return notes / f"{number:05d}.gzidx"


@contextmanager
def _opened(archive: AnyPath, index: Path | None = None) -> Iterator[BinaryIO]:
    """A tar archive; one that is gzipped can be read from the places that the index of it knows."""
    with archive.open("rb") as file, ExitStack() as stack:
        is_gzipped = index is not None or file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if is_gzipped:
            packed = {"filename": str(archive)} if isinstance(archive, Path) else {"fileobj": file}
            file = stack.enter_context(
                IndexedGzipFile(**packed, index_file=None if index is None else str(index))
            )
            stack.enter_context(_unpacking())
        yield file


@contextmanager
def _unpacking() -> Iterator[None]:
    """What a store has said stands behind what became of the unpacking for it."""
    try:
        yield
    except OSError as error:
        if isinstance(error.__cause__, LoupeError):
            raise error.__cause__ from None
        raise


@contextmanager
def _reading_at(
    archive: AnyPath, index: Path, ranges: Sequence[tuple[int, int]]
) -> Iterator[ReadAt]:
    """See `open_ranges`. A gzipped archive is read from the places that the index of it knows."""
    if not index.exists():
        with open_ranges(archive, ranges) as read_at:
            yield read_at
    elif isinstance(archive, Path):
        with _opened(archive, index) as file:
            yield cast("IndexedGzipFile", file).pread
    else:
        with _opened(archive, index) as file:
            fetched = {
                (stop - start, start): _tried(file, stop - start, start) for start, stop in ranges
            }
        yield lambda size, offset: unwrap(fetched[size, offset])


def _tried(file: BinaryIO, size: int, offset: int) -> bytes | OSError:
    """A part of an unpacked archive, or why it cannot be read."""
    try:
        with _unpacking():
            return cast("IndexedGzipFile", file).pread(size, offset)  # type: ignore[no-any-return]
    except OSError as error:
        return error


class _Sober:
    """A file that does not read as much as a damaged or hostile header asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(size)


def _members(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Those that have the name of a picture. What tarfile remembers of all of them is dropped."""
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            if is_picture(member.name):
                yield member
        file.seek(archive.offset)
        if any(
            file.read(tarfile.BLOCKSIZE)
        ):  # to tarfile, a damaged header is the end of the archive
            raise tarfile.ReadError(f"no member at {archive.offset:,}, and not the end")


def _why_refused(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link in an archive"
    if not member.isreg() or member.issparse():
        return "a member of an archive that is no plain file"
    return why_refused(member.name, member.size, member.size)
