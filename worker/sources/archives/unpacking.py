"""Archives packed with bzip2, xz or Zstandard: unpacked to a file while they are read.

None of these can be read from the middle. Zstandard and bzip2 take little memory by themselves.
"""

import bz2
import lzma
import tarfile
from typing import IO, Any, Protocol, cast

import pyarrow as pa

MAGICS = {b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAGIC_BYTES = max(map(len, MAGICS))
MAX_XZ_BYTES = 2**27  # of memory; `xz -9` needs half of it
CHUNK_BYTES = 2**20  # unpacked at a time


class Reader(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes, and at least one before the end."""


def compression_of(head: bytes) -> str | None:
    """Return the compression of a file with these first bytes."""
    found = (name for magic, name in MAGICS.items() if head.startswith(magic))
    return next(found, None)


def open_stream(file: IO[bytes], compression: str) -> Reader:
    """Return a stream of the unpacked bytes; it raises `ValueError` or `EOFError` for damage."""
    if compression == "xz":
        return _Xz(file)
    if compression == "bz2":
        return cast("Reader", bz2.open(file))
    return cast("Reader", pa.CompressedInputStream(pa.PythonFile(file, "r"), compression))


class UnpackedFile:
    """The unpacked bytes of a stream, which are kept in a file.

    Args:
        stream: The bytes.
        copy: File that keeps them.
        max_bytes: Maximum number of bytes to unpack.
    """

    def __init__(self, stream: Reader, copy: IO[bytes], max_bytes: int) -> None:
        self._stream = stream
        self._copy = copy
        self._max_bytes = max_bytes
        self._size = self._position = 0

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int) -> int:
        """Go to an offset, before or after what is unpacked so far."""
        self._position = offset
        return offset

    def read(self, size: int) -> bytes:
        """Read bytes; fewer at the end."""
        stop = self._position + size
        while self._size < stop and (chunk := self._stream.read(CHUNK_BYTES)):
            self._copy.seek(self._size)
            self._copy.write(chunk)
            self._size += len(chunk)
            if self._size > self._max_bytes:
                raise tarfile.ReadError(f"it unpacks to more than {self._max_bytes:,} bytes")
        self._copy.seek(self._position)
        data = self._copy.read(size)
        self._position += len(data)
        return data


class _Xz:
    """The unpacked bytes of an xz file of one or more streams.

    The standard library's own file does not limit the memory that a header claims.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decoder = self._start()

    def read(self, size: int) -> bytes:
        while True:
            data = b""
            if self._decoder.eof:  # zeros may follow a stream
                data = self._decoder.unused_data.lstrip(b"\0")
                data = data or self._file.read(CHUNK_BYTES).lstrip(b"\0")
                if not data:
                    return b""
                self._decoder = self._start()
            elif self._decoder.needs_input:
                data = self._file.read(CHUNK_BYTES)
                if not data:
                    raise EOFError("the compressed file ends early")
            found: bytes = self._decoder.decompress(data, size)
            if found:
                return found

    def _start(self) -> Any:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_XZ_BYTES)
