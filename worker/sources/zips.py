"""Pictures in a zip archive, read at the offsets that its directory names.

Python's `zipfile` keeps an object per member, too much memory for a million. Nothing is extracted
to disk, so no member can reach out of the archive.

Source: PKWARE, "APPNOTE.TXT, .ZIP File Format Specification", sections 4.3 and 4.4.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from loupe.errors import InvalidImage, InvalidSource
from worker.remote_path import RemotePath
from worker.sources.folders import is_picture
from worker.sources.pictures import Collection, Entry, ReadEntry, why_member_refused
from worker.storage import AnyPath, ReadAt, open_ranges

MEMBER = struct.Struct("<4s4x2H4x3L3H8xL")  # in the central directory
LOCAL_HEADER = struct.Struct("<4s22x2H")  # before a member's bytes: lengths of name and extra field
END = struct.Struct("<4s6xH2LH")  # members, size and offset of the directory, length of the comment
END_64_LOCATOR = struct.Struct("<4s4xQ4x")
END_64 = struct.Struct("<4s28x3Q")  # members, size, offset
MAX_COMMENT_BYTES = 2**16 - 1
ZIP_64 = 0x0001  # extra field
IN_ZIP_64 = 2**32 - 1
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF_8 = 0x1, 0x800
USUAL_HEADER_BYTES = 512  # with name and extra field, whose lengths only the header tells


class Zip(Collection):
    """The picture files of a zip archive in the order of its directory; ids are their paths."""

    def __init__(self, file: AnyPath) -> None:
        super().__init__(str(file), [file])
        self._file = file

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        with self._file.open("rb") as file:
            try:
                yield from _members(file)
            except (struct.error, ValueError) as error:
                raise InvalidSource(
                    f"The zip archive '{self.path}' is damaged: {error}."
                ) from error

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`."""
        members = (
            (offset, offset + USUAL_HEADER_BYTES + compressed)
            for offset, compressed, *_ in (entry.location for entry in entries)
        )
        with open_ranges(self._file, members) as read_at:
            yield lambda entry: _unpack(read_at, *entry.location)

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return entry.location[1] if isinstance(self._file, RemotePath) else 0


def _members(file: IO[bytes]) -> Iterator[Entry]:
    """Read the central directory; raises `struct.error` or `ValueError` if it is damaged."""
    count, size, start, end = _find_directory(file)
    before = end - size - start  # bytes before the archive, a self-extracting program for example
    if before < 0:
        raise ValueError(f"its directory of {size:,} bytes at {start:,} ends at {end:,}")
    file.seek(before + start)
    for _ in range(count):
        magic, flags, method, crc, compressed, unpacked, *lengths, offset = MEMBER.unpack(
            file.read(MEMBER.size)
        )
        if magic != b"PK\x01\x02":
            raise ValueError("its directory has fewer members than it claims")
        raw_name, extra, _comment = map(file.read, lengths)
        name = raw_name.decode("utf-8" if flags & UTF_8 else "cp437", "surrogateescape")
        if not is_picture(name):
            continue
        unpacked, compressed, offset = _zip_64_values(extra, unpacked, compressed, offset)
        yield Entry(
            name,
            [before + offset, compressed, unpacked, method, crc],
            _why_refused(name, flags, method, unpacked, compressed),
        )


def _find_directory(file: IO[bytes]) -> tuple[int, int, int, int]:
    """Return members, size and offset of the central directory, and where it ends in the file."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - END.size - MAX_COMMENT_BYTES)
    file.seek(tail_start)
    tail = file.read()
    position = tail.rfind(b"PK\x05\x06")
    if position < 0:
        raise ValueError("its directory has no end")
    _, count, size, start, _ = END.unpack_from(tail, position)
    end = tail_start + position
    locator_start = end - END_64_LOCATOR.size
    if locator_start >= 0 and (count == 2**16 - 1 or IN_ZIP_64 in {size, start}):
        file.seek(locator_start)
        magic, end_64 = END_64_LOCATOR.unpack(file.read(END_64_LOCATOR.size))
        if magic == b"PK\x06\x07":
            end = min(end_64, length)
            file.seek(end)
            _, count, size, start = END_64.unpack(file.read(END_64.size))
    return count, size, start, end


def _zip_64_values(extra: bytes, *values: int) -> tuple[int, ...]:
    """Replace values that do not fit into 32 bits by those of the extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == ZIP_64:
            wide = iter(struct.unpack(f"<{length // 8}Q", extra[4 : 4 + length // 8 * 8]))
            return tuple(next(wide, value) if value == IN_ZIP_64 else value for value in values)
        extra = extra[4 + length :]
    return values


def _why_refused(name: str, flags: int, method: int, unpacked: int, compressed: int) -> str | None:
    if flags & ENCRYPTED:
        return "The member is encrypted."
    if method not in {STORED, DEFLATED}:
        return f"The member is compressed with method {method}; only 0 and 8 are supported."
    return why_member_refused(name, unpacked, compressed)


def _unpack(
    read_at: ReadAt, offset: int, compressed: int, unpacked: int, method: int, crc: int
) -> bytes:
    """Return the bytes of a member, no more than the directory promises."""
    header = read_at(LOCAL_HEADER.size, offset)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise InvalidImage("The member is not where the zip archive's directory says.")
    _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    data = read_at(compressed, offset + LOCAL_HEADER.size + name_bytes + extra_bytes)
    if method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, unpacked + 1)
        except zlib.error as error:
            raise InvalidImage(f"The member of the zip archive is damaged: {error}.") from error
    if len(data) != unpacked or zlib.crc32(data) != crc:
        raise InvalidImage("The member of the zip archive is damaged: its checksum differs.")
    return data
