"""Members of archives: their paths, and the headers of tar archives, which may be hostile."""

import tarfile
from collections.abc import Iterator
from typing import IO, cast

MAX_HEADER_BYTES = 2**18  # of one member's names and attributes
MAX_ATTRIBUTES = 1000  # that hold for all members that follow; tarfile applies each to each


def member_path(name: str) -> str:
    """Return the path of a member without `.` and empty parts, as folders name it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return name[: name.startswith("/")] + "/".join(parts) + "/" * name.endswith("/")


def tar_members(file: IO[bytes], max_bytes: int) -> Iterator[tarfile.TarInfo]:
    """Yield all members but folders; tarfile's list of members is kept empty.

    Args:
        file: A tar archive, unpacked.
        max_bytes: Offset beyond which no member may be.

    Raises:
        tarfile.TarError, OSError, EOFError, RecursionError: If it is damaged or hostile.
    """
    limited = _LimitedReader(file, max_bytes)
    with tarfile.open(fileobj=cast("IO[bytes]", limited), mode="r:") as archive:
        offset = 0
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            if archive.offset <= offset or len(archive.pax_headers) > MAX_ATTRIBUTES:
                raise tarfile.ReadError(f"a wrong size or too many attributes at {offset:,}")
            offset, limited.left = archive.offset, MAX_HEADER_BYTES
            member.name = member_path(member.name)
            if not member.isdir():
                yield member
        limited.seek(archive.offset)
        if any(limited.read(tarfile.BLOCKSIZE)):  # tarfile stops at a damaged header, as at the end
            raise tarfile.ReadError(f"no header at {archive.offset:,}, and not the end")


class _LimitedReader:
    """A file that refuses to read or unpack as much as a hostile header may claim.

    Attributes:
        left: Bytes that may be read for the next member.
    """

    def __init__(self, file: IO[bytes], max_bytes: int) -> None:
        self._file = file
        self._max_bytes = max_bytes
        self.left = MAX_HEADER_BYTES
        self.tell = file.tell

    def seek(self, offset: int) -> int:
        """Go to an offset; to reach it, a gzipped archive is unpacked."""
        if offset > self._max_bytes:
            raise tarfile.ReadError(f"its members claim more than {self._max_bytes:,} bytes")
        return self._file.seek(offset)

    def read(self, size: int) -> bytes:
        """Read a part of a header."""
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        return self._file.read(size)
