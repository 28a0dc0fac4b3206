"""Paths in object stores and on web servers, on top of fsspec.

An object store has no folders and no renaming: a folder is a common prefix of names, and an object
appears when it is complete.
"""

import errno
import fnmatch
import io
import os
import posixpath
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, cast

from loupe.errors import InvalidSource, StorageUnavailable
from worker.storage_errors import translate_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

# Packages that implement the protocols, as pip takes them.
PACKAGES = {
    "s3": "-e '.[s3]'",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "https": "'aiohttp>=3.12'",
}
MAX_REQUESTS = 64  # at a time; stores answer more of them no faster
OPTIONS: dict[str, dict[str, object]] = {
    "s3": {"config_kwargs": {"max_pool_connections": MAX_REQUESTS}}
}
BLOCK_BYTES = 4 * 2**20  # per request when a file is read from start to end; less is not faster
MAX_HTTPS_BYTES = 2**34  # of one file
# A server may take this long for a file, and longer if it sends more bytes per second.
MIN_SECONDS, MIN_BYTES_PER_SECOND = 60, 2**18


@cache
def _open_store(protocol: str, bucket: str, *, private: bool) -> tuple[Any, str]:
    """Return the file system of a bucket, which caches no listings, and the bucket's path in it."""
    import fsspec

    url, options = f"{protocol}://{bucket}", OPTIONS.get(protocol, {})
    try:
        if protocol == "https":
            from worker.https_client import make_client, make_public_client

            client = make_client if private else make_public_client
            # `url_to_fs` would take the `::` of an IPv6 address for a chain of URLs.
            return fsspec.filesystem(protocol, use_listings_cache=False, get_client=client), url
        with translate_errors(url):
            store: tuple[Any, str] = fsspec.url_to_fs(url, use_listings_cache=False, **options)
            return store
    except ImportError as error:
        raise StorageUnavailable(
            f"{protocol}:// needs a package that is not installed. Install it here and for each "
            f"worker: pip install {PACKAGES[protocol]}",
            code="protocol_unavailable",
        ) from error


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in an object store or on a web server.

    Methods with names of `Path`'s do the same. All raise `StorageRefused` or `StorageUnavailable`
    for what goes wrong in the store, and `OSError` only where `Path` would.

    Attributes:
        url: As the user wrote it.
        private: Whether an `https` URL may lead to an address that is not public.
        fs: fsspec's file system.
        path: Path in that file system.
    """

    url: str
    private: bool = False
    fs: Any = field(init=False, repr=False, compare=False)
    path: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fs, root = _open_store(self.protocol, self.bucket, private=self.private)
        path = "/".join([root, *self.url.split("/")[3:]])
        object.__setattr__(self, "fs", fs)
        object.__setattr__(self, "path", path if self.protocol == "https" else path.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return self.with_url(f"{self.url.rstrip('/')}/{name}")

    def with_url(self, url: str) -> "RemotePath":
        """Return another path that the same rules hold for."""
        return RemotePath(url, self.private)

    @property
    def protocol(self) -> str:
        """The URL's scheme."""
        return self.url.partition(":")[0].lower()

    @property
    def bucket(self) -> str:
        """Bucket, container or host."""
        return self.url.split("/")[2]

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self._without_query)

    @property
    def suffix(self) -> str:
        """File extension with its dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder of the file."""
        return self.with_url(posixpath.dirname(self._without_query))

    @property
    def _without_query(self) -> str:
        url = self.url.partition("?")[0] if self.protocol == "https" else self.url
        return url.rstrip("/")

    def resolve(self, relative: str) -> "RemotePath | None":
        """Return the target of a path relative to this folder; `None` if it leaves the bucket."""
        protocol, _, folder = self.url.partition("://")
        joined = f"{folder.rstrip('/')}/{relative}"
        if ".." in relative.split("/"):
            joined = posixpath.normpath(joined)
        if relative.startswith("/") or not joined.startswith(f"{self.bucket}/"):
            return None
        return self.with_url(f"{protocol}://{joined}")

    def info(self) -> dict[str, Any]:
        """Return the store's description of a file or folder."""
        with translate_errors(self.url):
            info: dict[str, Any] = self.fs.info(self.path)
        if self.protocol == "https" and (info.get("size") or 0) > MAX_HTTPS_BYTES:
            raise InvalidSource(
                f"'{self.url}' has more than {MAX_HTTPS_BYTES:,} bytes.", code="source_too_large"
            )
        return info

    def exists(self) -> bool:
        """Return whether there is a file, or anything below."""
        return self._type() is not None

    def is_file(self) -> bool:
        """Return whether there is a file."""
        return self._type() == "file"

    def is_dir(self) -> bool:
        """Return whether there is anything below."""
        return self._type() == "directory"

    def _type(self) -> str | None:
        try:
            return cast(str, self.info()["type"])
        except FileNotFoundError:
            return None

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield what is directly below and has a matching name."""
        return (found for found in self.iterdir() if fnmatch.fnmatchcase(found.name, pattern))

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield what is directly below; a missing folder is an empty one."""
        with translate_errors(self.url):
            try:
                found = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return
        names = sorted(posixpath.basename(path) for path in found if path.rstrip("/") != self.path)
        yield from (self / name for name in names if name)

    def find(self, pattern: str = "") -> dict[str, dict[str, Any]]:
        """Return descriptions of the files below, or of those that match, by relative path."""
        with translate_errors(self.url):
            found = (
                self.fs.glob(f"{self.path}/{pattern}", detail=True)
                if pattern
                else self.fs.find(self.path, detail=True)
            )
        below = len(self.path) + 1
        return {path[below:]: info for path, info in found.items() if info["type"] == "file"}

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open for reading; raises `SourceChanged` if the file changes while it is read."""
        with translate_errors(self.url):
            file = self.fs.open(self.path, mode, block_size=BLOCK_BYTES, cache_type="readahead")
        if not file.seekable():
            raise InvalidSource(f"The server of '{self.url}' sends no parts of files.")
        return cast("BinaryIO", _TranslatingFile(file, self.url))

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Read a file or a part of it in one request."""
        if start is not None and start == stop:  # which stores do not accept as a range
            return b""
        with translate_errors(self.url):
            return bytes(self.fs.cat_file(self.path, start=start, end=stop))

    def download(self, to: Path) -> None:
        """Copy the file to this machine."""
        with translate_errors(self.url):
            self.fs.get_file(self.path, str(to))

    def upload(self, file: Path, *, new: bool = False) -> None:
        """Copy a file of this machine; with `new`, raise `FileExistsError` if there is one."""
        with translate_errors(self.url):
            self.fs.put_file(str(file), self.path, **({"mode": "create"} if new else {}))

    def mkdir(self, mode: int = 0, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder exists once it holds a file."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        with translate_errors(self.url):
            try:
                self.fs.rm_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise


class _TranslatingFile(io.RawIOBase):
    """A file of fsspec that raises Loupe's errors."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url
        self._seconds, self._bytes = 0.0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return int(self._file.seek(offset, whence))
        except ValueError as error:  # for which other files raise OSError
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self._url) from error

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        started = time.monotonic()
        with translate_errors(self._url):
            count = int(self._file.readinto(buffer))
        self._seconds += time.monotonic() - started
        self._bytes += count
        if self._seconds > MIN_SECONDS + self._bytes / MIN_BYTES_PER_SECOND:
            raise StorageUnavailable(f"The server of '{self._url}' is too slow.")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
