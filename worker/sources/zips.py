"""Pictures in a zip archive, read at the place that its directory names.

Python's own reader keeps an object for every member, which at a million of them is more memory than a worker has. Nothing is ever
written to disk, so that no member can reach out of the archive.

Source: PKWARE, "APPNOTE.TXT, .ZIP File Format Specification", sections 4.3 and 4.4.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from loupe.errors import InvalidImage
from loupe.images.decode import SUFFIXES
from loupe.old_errors.worker import InvalidSource
from worker.sources.folders import is_picture
from worker.sources.members import why_refused
from worker.sources.pictures import Entry, Read
from worker.sources.source import stamp
from worker.storage import AnyPath, ReadAt, RemotePath, open_ranges

MEMBER = struct.Struct("<4s4x2H4x3L3H8xL")  # in the central directory
LOCAL = struct.Struct(
    "<4s22x2H"
)  # before the bytes of a member: lengths of its name and of its extra field
END = struct.Struct(
    "<4s6xH2LH"
)  # of the central directory: members, its size, its offset, length of the comment
END_64_LOCATOR = struct.Struct("<4s4xQ4x")
END_64 = struct.Struct("<4s28x3Q")  # members, size, offset
LONGEST_COMMENT = 2**16 - 1
ZIP_64 = 0x0001  # an extra field
IN_ZIP_64 = 2**32 - 1
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF_8 = 0x1, 0x800
USUAL_HEAD_BYTES = (
    512  # of a member, with its name and extra field: only its own head says how long that is
)


class Zip:
    """The picture files of a zip archive, in the order of its directory; their ids are their paths in it."""

    nothing = f"a zip archive without {', '.join(sorted(SUFFIXES))} files"

    quick = True

    def __init__(self, file: AnyPath) -> None:
        self.where = str(file)
        self._file = file

    def stamp(self) -> str:
        """See `Collection.stamp`."""
        return stamp(self._file)

    def entries(self, notes: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        with self._file.open("rb") as file:
            try:
                yield from _members(file)
            except (struct.error, ValueError) as error:
                raise InvalidSource(self.where, f"a damaged zip archive ({error})") from error

    @contextmanager
    def reading(self, entries: Sequence[Entry], notes: Path) -> Iterator[Read]:
        """See `Collection.reading`."""
        members = (
            (offset, offset + USUAL_HEAD_BYTES + packed)
            for offset, packed, *_ in (entry.where for entry in entries)
        )
        with open_ranges(self._file, members) as read_at:
            yield lambda entry: _unpack(read_at, *entry.where)

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return entry.where[1] if isinstance(self._file, RemotePath) else 0


def _members(file: BinaryIO) -> Iterator[Entry]:
    """Of the central directory; `struct.error` or `ValueError` if it is damaged."""
    count, size, start, end = _find_directory(file)
    before = end - size - start  # of the archive, in this file: a program that unpacks it, for one
    if before < 0:
        raise ValueError(f"a directory of {size:,} bytes at {start:,} that ends at {end:,}")
    file.seek(before + start)
    for _ in range(count):
        magic, flags, method, crc, packed, unpacked, *lengths, offset = MEMBER.unpack(
            file.read(MEMBER.size)
        )
        if magic != b"PK\x01\x02":
            raise ValueError("no member where its directory says that there is one")
        raw_name, extra, _comment = map(file.read, lengths)
        name = raw_name.decode("utf-8" if flags & UTF_8 else "cp437", "surrogateescape")
        if not is_picture(name):
            continue
        unpacked, packed, offset = _in_64_bits(extra, unpacked, packed, offset)
        yield Entry(
            name,
            [before + offset, packed, unpacked, method, crc],
            _why_refused(name, flags, method, unpacked, packed),
        )


def _find_directory(file: BinaryIO) -> tuple[int, int, int, int]:
    """Members, size and offset of the central directory, and where in the file it ends; from the end of the archive."""
    length = file.seek(0, os.SEEK_END)
    begin = max(0, length - END.size - LONGEST_COMMENT)
    file.seek(begin)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise ValueError("no end of its directory")
    _, count, size, start, _ = END.unpack_from(tail, at)
    end = begin + at
    locator_at = end - END_64_LOCATOR.size
    if locator_at >= 0 and (count == 2**16 - 1 or IN_ZIP_64 in {size, start}):
        file.seek(locator_at)
        magic, end_64 = END_64_LOCATOR.unpack(file.read(END_64_LOCATOR.size))
        if magic == b"PK\x06\x07":
            end = min(end_64, length)
            file.seek(end)
            _, count, size, start = END_64.unpack(file.read(END_64.size))
    return count, size, start, end


def _in_64_bits(extra: bytes, *sizes: int) -> tuple[int, ...]:
    """The sizes and the offset, those that do not fit into 32 bits from the extra field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == ZIP_64:
            wide = iter(struct.unpack(f"<{length // 8}Q", extra[4 : 4 + length // 8 * 8]))
            return tuple(next(wide, size) if size == IN_ZIP_64 else size for size in sizes)
        extra = extra[4 + length :]
    return sizes


def _why_refused(name: str, flags: int, method: int, unpacked: int, packed: int) -> str | None:
    if flags & ENCRYPTED:
        return "an encrypted member"
    if method not in {STORED, DEFLATED}:
        return f"a member packed by method {method}, neither stored nor deflated"
    return why_refused(name, unpacked, packed)


def _unpack(
    read_at: ReadAt, offset: int, packed: int, unpacked: int, method: int, crc: int
) -> bytes:
    """The bytes of a member, no more than its directory promises; `InvalidImage` if they are not what was packed."""
    head = read_at(LOCAL.size, offset)
    if len(head) < LOCAL.size or not head.startswith(b"PK\x03\x04"):
        raise InvalidImage("The member is not where the zip archive's directory says.")
    _, name_bytes, extra_bytes = LOCAL.unpack(head)
    data = read_at(packed, offset + LOCAL.size + name_bytes + extra_bytes)
    if method == DEFLATED:
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, unpacked + 1)
        except zlib.error as error:
            raise InvalidImage(f"The member of the zip archive is damaged: {error}.") from error
    if len(data) != unpacked or zlib.crc32(data) != crc:
        raise InvalidImage("The member of the zip archive differs from what was packed.")
    return data
