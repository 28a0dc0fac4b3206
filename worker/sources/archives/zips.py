"""Pictures in a zip archive, read at the offsets that its directory names.

Python's `zipfile` keeps an object per member, too much memory for a million. Nothing is extracted
to disk, so no member can reach out of the archive.

Source: PKWARE, "APPNOTE.TXT, .ZIP File Format Specification", sections 4.3 and 4.4.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from loupe.errors import InvalidImage
from loupe.files import ReadableFolders
from loupe.images.archives import member_path
from loupe.images.formats import HEAD_BYTES
from loupe.images.selection import Reason, name_tells, why_skipped
from worker.remote_path import RemotePath
from worker.sources.archives.members import why_member_refused
from worker.sources.checks import damaged
from worker.sources.collection import (
    LOOKS_AT_ONCE,
    MAX_LOOKS,
    Collection,
    Entry,
    ReadEntry,
)
from worker.storage import AnyPath, ReadAt, open_file, open_ranges

MEMBER = struct.Struct("<4sxB2x2H4x3L3H4x2L")  # in the central directory
LOCAL_HEADER = struct.Struct("<4s22x2H")  # before a member's bytes: lengths of name and extra field
END = struct.Struct("<4s6xH2LH")  # members, size and offset of the directory, length of the comment
END_64_LOCATOR = struct.Struct("<4s4xQ4x")
END_64 = struct.Struct("<4s28x3Q")  # members, size, offset
MAX_COMMENT_BYTES = 2**16 - 1
ZIP_64, UNICODE_PATH = 0x0001, 0x7075  # extra fields
IN_ZIP_64 = 2**32 - 1
STORED, DEFLATED = 0, 8
ENCRYPTED, UTF_8 = 0x1, 0x800
UNIX = 3  # a system whose file types are in the upper half of the attributes
USUAL_HEADER_BYTES = 512  # with name and extra field, whose lengths are in the header
USUAL_HEAD_BYTES = USUAL_HEADER_BYTES + HEAD_BYTES
CHUNK_BYTES = 2**20  # read and unpacked at a time


class Member(NamedTuple):
    """A file in a zip archive, as the directory describes it."""

    name: str
    flags: int
    method: int
    crc: int
    unpacked: int
    compressed: int
    offset: int
    is_link: bool

    def why_unreadable(self) -> str | None:
        """Return why the member cannot be unpacked; `None` if it can."""
        if self.is_link:
            return "The member is a link."
        if self.flags & ENCRYPTED:
            return "The member is encrypted."
        if self.method not in {STORED, DEFLATED}:
            return (
                f"The member is compressed with method {self.method}; only 0 and 8 are supported."
            )
        return None

    def is_unclear(self) -> bool:
        """Return whether only the content tells if the member is a picture."""
        return not (self.is_link or self.why_unreadable() or name_tells(self.name))


class Zip(Collection):
    """The picture files of a zip archive in the order of its directory; ids are their paths."""

    replaces = True

    def __init__(self, file: AnyPath, folders: ReadableFolders | None = None) -> None:
        super().__init__(str(file), [file], folders)
        self._file = file

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        with open_file(self._file, self.folders) as file:
            try:
                for member, reason in self._selected(read_directory(file)):
                    name, _, method, crc, unpacked, compressed, offset, _ = member
                    if reason:
                        self.skipped.add(reason, name)
                        continue
                    why = member.why_unreadable()
                    why = why or why_member_refused(name, unpacked, compressed)
                    yield Entry(name, [offset, compressed, unpacked, method, crc], why)
            except (struct.error, ValueError) as error:
                raise damaged(f"zip archive '{self.path}'", error) from error

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`."""
        members = (
            (offset, offset + USUAL_HEADER_BYTES + compressed)
            for offset, compressed, *_ in (entry.location for entry in entries)
        )

        def read(entry: Entry) -> bytes:
            try:
                return b"".join(unpack(read_at, *entry.location))
            except (ValueError, zlib.error) as error:
                raise InvalidImage(f"The member of the zip archive is damaged: {error}.") from error

        with open_ranges(self._file, members, self.folders) as read_at:
            yield read

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return entry.location[1] if isinstance(self._file, RemotePath) else 0

    def _selected(self, members: Iterable[Member]) -> Iterator[tuple[Member, Reason | None]]:
        """Yield the files, and why they are skipped; each look into a remote one is a request."""
        files = (member for member in members if not member.name.endswith("/"))
        looks = MAX_LOOKS
        while some := list(islice(files, LOOKS_AT_ONCE)):
            offsets = {member.offset for member in [*filter(Member.is_unclear, some)][:looks]}
            looks -= len(offsets)
            heads = ((offset, offset + USUAL_HEAD_BYTES) for offset in offsets)
            with open_ranges(self._file, heads, self.folders) as read_at:
                for member in some:
                    can_look = isinstance(self._file, Path) or member.offset in offsets
                    yield member, _why_skipped(member, read_at if can_look else None)


def _why_skipped(member: Member, read_at: ReadAt | None) -> Reason | None:
    """See `why_skipped`; without a way to read, the name decides."""
    if member.is_link:
        reason = why_skipped(member.name, lambda: b"")
        return "not_a_file" if reason == "not_a_picture" else reason
    if read_at is None or member.why_unreadable():
        return why_skipped(member.name, None)
    try:
        return why_skipped(member.name, partial(head_of, member, read_at))
    except (ValueError, zlib.error):
        return "unreadable"


def read_directory(file: IO[bytes]) -> Iterator[Member]:
    """Yield the members that the central directory names.

    Raises:
        ValueError, struct.error: If the directory is damaged, or if its members take more bytes
            than the archive has, because they overlap.
    """
    count, size, start, end = _find_directory(file)
    before = end - size - start  # bytes before the archive, a self-extracting program for example
    if before < 0:
        raise ValueError(f"its directory of {size:,} bytes at {start:,} ends at {end:,}")
    available = before + start
    file.seek(available)
    for _ in range(count):
        magic, system, flags, method, crc, compressed, unpacked, *lengths, attributes, offset = (
            MEMBER.unpack(file.read(MEMBER.size))
        )
        if magic != b"PK\x01\x02":
            raise ValueError("its directory has fewer members than it claims")
        raw_name, extra, _comment = map(file.read, lengths)
        name = _decode_name(raw_name, extra, is_utf_8=bool(flags & UTF_8))
        unpacked, compressed, offset = _zip_64_values(extra, unpacked, compressed, offset)
        available -= LOCAL_HEADER.size + len(raw_name) + compressed
        if available < 0 or offset > start:
            raise ValueError("its members overlap, or take more bytes than it has")
        is_link = system == UNIX and stat.S_ISLNK(attributes >> 16)
        yield Member(name, flags, method, crc, unpacked, compressed, before + offset, is_link)


def _find_directory(file: IO[bytes]) -> tuple[int, int, int, int]:
    """Return members, size and offset of the central directory, and where it ends in the file."""
    length = file.seek(0, os.SEEK_END)
    tail_start = max(0, length - END.size - MAX_COMMENT_BYTES)
    file.seek(tail_start)
    tail = file.read(length - tail_start)
    whole = max(0, len(tail) - END.size)  # after it, the signature begins no complete record
    position = tail.rfind(b"PK\x05\x06", 0, whole + 4)
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


def _decode_name(raw: bytes, extra: bytes, *, is_utf_8: bool) -> str:
    """Return a path with `/` between its parts; programs of Windows write backslashes.

    Many programs write UTF-8 without the flag for it; text in another encoding is hardly ever valid
    UTF-8. An extra field may repeat the name in UTF-8, with a checksum of the name it belongs to.

    Source: Info-ZIP, "extrafld.txt", "Info-ZIP Unicode Path Extra Field".
    """
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("utf-8" if is_utf_8 else "cp437", "surrogateescape")
        has_lost_letters = not is_utf_8
    else:
        has_lost_letters = raw.isascii()  # those of other alphabets may be question marks
    field = _extra_field(extra, UNICODE_PATH)
    if (
        has_lost_letters
        and len(field) > 5
        and field[:5] == b"\1" + zlib.crc32(raw).to_bytes(4, "little")
    ):
        with suppress(UnicodeDecodeError):
            name = field[5:].decode()
    return member_path(name.replace("\\", "/"))


def _zip_64_values(extra: bytes, *values: int) -> tuple[int, ...]:
    """Replace values that do not fit into 32 bits by those of the extra field."""
    if IN_ZIP_64 not in values:
        return values
    field = _extra_field(extra, ZIP_64)
    wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
    return tuple(next(wide, value) if value == IN_ZIP_64 else value for value in values)


def _extra_field(extra: bytes, wanted: int) -> bytes:
    """Return the content of an extra field; empty if it is missing."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == wanted:
            return extra[4 : 4 + length]
        extra = extra[4 + length :]
    return b""


def head_of(member: Member, read_at: ReadAt) -> bytes:
    """Return the first bytes of a member.

    Raises:
        ValueError, zlib.error: If the member is damaged.
    """
    start = _find_content(read_at, member.offset)
    data = read_at(min(member.compressed, HEAD_BYTES), start)
    if member.method == DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, HEAD_BYTES)
    return data


def _find_content(read_at: ReadAt, offset: int) -> int:
    """Return where the bytes of a member begin, from the offset of its header."""
    header = read_at(LOCAL_HEADER.size, offset)
    if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
        raise ValueError("it is not where the directory says")
    _, name_bytes, extra_bytes = LOCAL_HEADER.unpack(header)
    return offset + LOCAL_HEADER.size + name_bytes + extra_bytes  # type: ignore[no-any-return]


def unpack(
    read_at: ReadAt, offset: int, compressed: int, unpacked: int, method: int, crc: int
) -> Iterator[bytes]:
    """Yield the bytes of a member, not more than the directory promises.

    Raises:
        ValueError, zlib.error: If the member is damaged.
    """
    start = _find_content(read_at, offset)
    chunks: Iterable[bytes]
    if max(compressed, unpacked) <= CHUNK_BYTES:  # the usual case, without generators
        data = read_at(compressed, start)
        if method == DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, unpacked + 1)
        chunks = [data]
    else:
        chunks = (
            read_at(min(CHUNK_BYTES, start + compressed - at), at)
            for at in range(start, start + compressed, CHUNK_BYTES)
        )
        chunks = chunks if method == STORED else _inflate(chunks)
    found = 0
    for chunk in chunks:
        unpacked -= len(chunk)
        found = zlib.crc32(chunk, found)
        if unpacked < 0:
            break
        yield chunk
    if unpacked or found != crc:
        raise ValueError("its checksum or size differs")


def _inflate(packed: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    for data in packed:
        while data and not unpacker.eof:
            yield unpacker.decompress(data, CHUNK_BYTES)
            data = unpacker.unconsumed_tail
