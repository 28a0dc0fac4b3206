"""Pictures in tar archives, also many of them, as WebDataset's shards are. Nothing is ever written to disk."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from indexed_gzip import IndexedGzipFile

from loupe.errors import InvalidImage, InvalidSource
from loupe.idx import GZIP_MAGIC
from loupe.images import SUFFIXES
from worker.sources.folders import is_picture
from worker.sources.members import why_refused
from worker.sources.pictures import Entry, Read
from worker.sources.source import stamp

LONGEST_HEADER_BYTES = 2**20  # of names and attributes; tarfile reads whatever length an archive claims


class Tars:
    """The picture files of tar archives, in their order; ids are their paths, after the archive's name where there are several."""

    nothing = f"a tar archive without {', '.join(sorted(SUFFIXES))} files"

    def __init__(self, where: str, paths: Sequence[Path]) -> None:
        self.where = where
        self._paths = paths

    def stamp(self) -> str:
        """See `Collection.stamp`."""
        return stamp(*self._paths)

    def entries(self, notes: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        for number, path in enumerate(self._paths):
            before = f"{path.name}/" if len(self._paths) > 1 else ""
            try:
                with _opened(path) as file:
                    for member in _members(cast("BinaryIO", _Sober(file))):
                        where = [number, member.offset_data, member.size]
                        yield Entry(before + member.name, where, _why_refused(member))
                    if notes is not None and isinstance(file, IndexedGzipFile):
                        file.export_index(_index(notes, number))
            except (tarfile.TarError, OSError, EOFError) as error:
                raise InvalidSource(self.where, f"a damaged tar archive '{path}' ({error})") from error

    @contextmanager
    def reading(self, notes: Path) -> Iterator[Read]:
        """See `Collection.reading`."""
        with ExitStack() as stack:
            files: dict[int, BinaryIO] = {}

            def read(entry: Entry) -> bytes:
                number, offset, size = entry.where
                if number not in files:
                    files[number] = stack.enter_context(_opened(self._paths[number], _index(notes, number)))
                files[number].seek(offset)
                data = files[number].read(size)
                if len(data) < size:
                    raise InvalidImage(f"{len(data):,} of {size:,} bytes before the end of the tar archive")
                return data

            yield read


def is_gzipped(path: Path) -> bool:
    """By its first bytes."""
    with path.open("rb") as file:
        return file.read(len(GZIP_MAGIC)) == GZIP_MAGIC


def is_tar(path: Path) -> bool:
    """Whether a file, gzipped or not, begins as a tar archive does."""
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        try:
            return tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape").chksum > 0
        except (tarfile.HeaderError, OSError, EOFError, zlib.error):
            return False


def _index(notes: Path, number: int) -> str:
    return str(notes / f"{number:05d}.gzidx")


def _opened(path: Path, index: str | None = None) -> BinaryIO:
    """A tar archive; one that is gzipped can be read from the places that the index of it knows."""
    if not is_gzipped(path):
        return path.open("rb")
    return cast("BinaryIO", IndexedGzipFile(str(path), index_file=index))


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
        if any(file.read(tarfile.BLOCKSIZE)):  # to tarfile, a damaged header is the end of the archive
            raise tarfile.ReadError(f"no member at {archive.offset:,}, and not the end")


def _why_refused(member: tarfile.TarInfo) -> str | None:
    if member.issym() or member.islnk():
        return "a link in an archive"
    if not member.isreg() or member.issparse():
        return "a member of an archive that is no plain file"
    return why_refused(member.name, member.size, member.size)
