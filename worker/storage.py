"""Paths of files and folders, on this machine or in an object store.

Local paths are `pathlib.Path`. Others are `RemotePath`, which has the methods of `Path` that Loupe
uses, on top of fsspec. An object store has no folders and no renaming: a folder is a common prefix
of names, and an object appears when it is complete.
"""

import errno
import fnmatch
import io
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar, cast
from urllib.parse import unquote

from loupe.errors import InvalidSource, InvalidUrl, StorageUnavailable
from loupe.files import atomic_path
from worker.storage_errors import translate_errors

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
R = TypeVar("R")

# Packages that implement the protocols, as pip takes them.
PACKAGES = {"s3": "'loupe[s3]'", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "https": "aiohttp"}
MAX_REQUESTS = 64  # at a time; stores answer more of them no faster
OPTIONS: dict[str, dict[str, object]] = {
    "s3": {"config_kwargs": {"max_pool_connections": MAX_REQUESTS}}
}
BLOCK_BYTES = 4 * 2**20  # per request when a file is read from start to end; less is not faster
MAX_GAP_BYTES = 2**16  # between two ranges that one request fetches

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
# Keys under which the protocols report a file's version.
_VERSION_KEYS = (
    *("ETag", "etag", "generation"),
    *("Last-Modified", "LastModified", "last_modified", "mtime"),
)


def parse_path(path: str | Path, *, https: bool = False) -> "AnyPath":
    """Return the absolute path that a user's path or URL means. It need not exist.

    Args:
        path: A path, or a URL of `file`, `s3`, `gs`, `az`, `abfs` or `https`.
        https: Whether `https` is allowed.

    Raises:
        InvalidUrl: If Loupe cannot read the URL.
        StorageUnavailable: If the package for the protocol is missing.
    """
    match = None if isinstance(path, Path) else _URL.fullmatch(path)
    if match is None:
        return Path(path).absolute()
    url, protocol, bucket = str(path), match[1].lower(), match[2].partition("/")[0]
    if protocol == "file":
        if bucket:
            raise InvalidUrl(f"'{url}' names a file on another machine. Write file:///path.")
        return Path(unquote(match[2]))
    if protocol not in PACKAGES:
        known = ", ".join(f"{name}://" for name in ["file", *PACKAGES])
        raise InvalidUrl(f"'{url}' has an unknown protocol. Use a path or one of {known}.")
    if protocol == "https" and not https:
        raise InvalidUrl(f"'{url}' is not allowed. Set LOUPE_HTTPS_SOURCES to allow https://.")
    if not bucket or "::" in bucket:  # which fsspec would take for a chain of URLs
        raise InvalidUrl(f"'{url}' names no bucket, container or host.")
    return RemotePath(url)


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path."""
    return _URL.fullmatch(text) is not None


@cache
def _open_store(protocol: str, bucket: str) -> tuple[Any, str]:
    """Return the file system of a bucket, which caches no listings, and the bucket's path in it."""
    import fsspec

    url = f"{protocol}://{bucket}"
    try:
        with translate_errors(url):
            return fsspec.url_to_fs(  # type: ignore[no-any-return]
                url, use_listings_cache=False, **OPTIONS.get(protocol, {})
            )
    except ImportError as error:
        raise StorageUnavailable(
            f"{protocol}:// needs a package that is not installed. Install it here and for each "
            f"worker: pip install {PACKAGES[protocol]}",
            code="protocol_unavailable",
        ) from error


@dataclass(frozen=True)
class RemotePath:
    """A file or folder in an object store or on a web server.

    Methods that `Path` has, too, do the same. All raise `StorageRefused` or `StorageUnavailable`
    for what goes wrong in the store, and `OSError` only where `Path` would.

    Attributes:
        url: As the user wrote it.
        fs: fsspec's file system.
        path: Path in that file system.
    """

    url: str
    fs: Any = field(init=False, repr=False, compare=False)
    path: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        fs, root = _open_store(self.protocol, self.bucket)
        _, _, key = self.url.split("://", 1)[1].partition("/")
        path = f"{root}/{key}"
        object.__setattr__(self, "fs", fs)
        object.__setattr__(self, "path", path if self.protocol == "https" else path.rstrip("/"))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

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
        return RemotePath(posixpath.dirname(self._without_query))

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
        return RemotePath(f"{protocol}://{joined}")

    # Looking

    def info(self) -> dict[str, Any]:
        """Return the store's description of a file or folder."""
        with translate_errors(self.url):
            return cast("dict[str, Any]", self.fs.info(self.path))

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

    def iterdir(self) -> Iterator["RemotePath"]:
        """Yield what is directly below; a missing folder is an empty one."""
        with translate_errors(self.url):
            try:
                found = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return
        names = sorted(posixpath.basename(path) for path in found if path.rstrip("/") != self.path)
        yield from (self / name for name in names if name)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Yield what is directly below and has a matching name."""
        return (found for found in self.iterdir() if fnmatch.fnmatchcase(found.name, pattern))

    def find(self, pattern: str = "") -> dict[str, dict[str, Any]]:
        """Return descriptions of the files below, or of those that match, by relative path."""
        with translate_errors(self.url):
            find = (
                partial(self.fs.glob, f"{self.path}/{pattern}")
                if pattern
                else partial(self.fs.find, self.path)
            )
            found = find(detail=True)
        below = len(self.path) + 1
        return {path[below:]: info for path, info in found.items() if info["type"] == "file"}

    # Reading

    def open(
        self, mode: str = "r", *, encoding: str = "utf-8", newline: str | None = None
    ) -> IO[Any]:
        """Open for reading; raises `SourceChanged` if the file changes while it is read."""
        with translate_errors(self.url):
            file = self.fs.open(self.path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
        if not file.seekable():
            raise InvalidSource(f"The server of '{self.url}' sends no parts of files.")
        raw = _TranslatingFile(file, self.url)
        if mode == "rb":
            return cast("IO[Any]", raw)
        return io.TextIOWrapper(
            io.BufferedReader(raw, BLOCK_BYTES), encoding=encoding, newline=newline
        )

    def read_bytes(self, start: int = 0, stop: int | None = None) -> bytes:
        """Read a file or a part of it in one request."""
        if start == stop:  # which stores do not accept as a range
            return b""
        with translate_errors(self.url):
            return bytes(self.fs.cat_file(self.path, start=start, end=stop))

    def read_text(self, encoding: str = "utf-8") -> str:
        """Read a short file."""
        return self.read_bytes().decode(encoding)

    def download(self, to: Path) -> None:
        """Copy the file to this machine."""
        with translate_errors(self.url):
            self.fs.get_file(self.path, str(to))

    # Writing

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder exists once it holds a file."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the file."""
        with translate_errors(self.url):
            try:
                self.fs.rm_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def upload(self, file: Path, *, new: bool = False) -> None:
        """Copy a file of this machine; with `new`, raise `FileExistsError` if there is one."""
        with translate_errors(self.url):
            self.fs.put_file(str(file), self.path, **({"mode": "create"} if new else {}))


AnyPath: TypeAlias = Path | RemotePath
ReadAt: TypeAlias = Callable[[int, int], bytes]
"""Reads that many bytes at an offset; fewer at the end of the file."""


def map_requests(request: Callable[[T], R], items: Iterable[T]) -> list[R | BaseException]:
    """Return the result or error of `request` for each item, `MAX_REQUESTS` of them at a time."""
    futures = [_request_threads().submit(request, item) for item in items]
    return [future.exception() or future.result() for future in futures]


@cache
def _request_threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MAX_REQUESTS, thread_name_prefix="storage")


def unwrap(result: T | BaseException) -> T:
    """Return a result, or raise it if it is an error."""
    if isinstance(result, BaseException):
        raise result
    return result


def version_of(info: dict[str, Any]) -> str:
    """Return size and version of a file from the store's description."""
    version = next((str(info[key]) for key in _VERSION_KEYS if info.get(key)), "")
    return f"{info.get('size')}-{version}"


def versions(files: Sequence[AnyPath]) -> str:
    """Return a text that changes when one of the files does.

    Raises:
        FileNotFoundError: If a file is missing.
    """

    def version(file: AnyPath) -> str:
        if isinstance(file, RemotePath):
            return version_of(file.info())
        status = file.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"

    return " ".join(map(unwrap, _map_files(version, files)))


def missing_files(files: Sequence[AnyPath]) -> list[AnyPath]:
    """Return those paths that are not files."""
    found = _map_files(lambda file: file.is_file(), files)
    return [file for file, is_file in zip(files, found, strict=True) if not unwrap(is_file)]


def _map_files(
    request: Callable[[AnyPath], R], files: Sequence[AnyPath]
) -> list[R] | list[R | BaseException]:
    """Call `request` for each file, in threads if that takes time."""
    if len(files) == 1 or isinstance(files[0], Path):
        return [request(file) for file in files]
    return map_requests(request, files)


def is_inside(inner: AnyPath, outer: AnyPath) -> bool:
    """Return whether `inner` is `outer` or below it."""
    if isinstance(inner, Path) and isinstance(outer, Path):
        return inner.resolve().is_relative_to(outer.resolve())
    if isinstance(inner, RemotePath) and isinstance(outer, RemotePath) and inner.fs is outer.fs:
        return f"{inner.path.rstrip('/')}/".startswith(f"{outer.path.rstrip('/')}/")
    return False


@contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """Yield the file itself if it is on this machine, else a temporary copy."""
    if isinstance(file, Path):
        yield file
    else:
        with _temporary_file(file.suffix) as copy:
            file.download(copy)
            yield copy


@contextmanager
def _temporary_file(suffix: str) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix="loupe-", suffix=suffix)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


@contextmanager
def publish(path: AnyPath, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary local file that appears at `path` when the block ends without an error.

    With `new`, raise `FileExistsError` if there is a file by then.
    """
    if isinstance(path, Path):
        with atomic_path(path, sync=True, new=new) as temporary:
            yield temporary
    else:
        with _temporary_file(path.suffix) as temporary:
            yield temporary
            path.upload(temporary, new=new)


def write_file(path: AnyPath, data: bytes | str, *, new: bool = False) -> None:
    """Write a file as `publish` does. Text is encoded as UTF-8."""
    with publish(path, new=new) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def open_ranges(file: AnyPath, ranges: Iterable[tuple[int, int]]) -> Iterator[ReadAt]:
    """Open a file to read parts of it.

    Args:
        file: A file.
        ranges: Start and stop of the parts. A remote file's parts are fetched now, neighbours in
            one request; each other part costs a request when it is read.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            descriptor = opened.fileno()
            yield lambda size, offset: os.pread(descriptor, size, offset)
    else:
        yield partial(_read_at, file, _fetch_ranges(file, ranges))


def _fetch_ranges(file: RemotePath, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Return offset and bytes of the merged ranges."""
    from fsspec.utils import merge_offset_ranges

    starts, stops = map(list, zip(*sorted(ranges), strict=True))
    paths, starts, stops = merge_offset_ranges(
        [file.path] * len(starts), starts, stops, max_gap=MAX_GAP_BYTES
    )
    with translate_errors(file.url):
        parts = file.fs.cat_ranges(paths, starts, stops, batch_size=MAX_REQUESTS)
        return [(start, unwrap(part)) for start, part in zip(starts, parts, strict=True)]


def _read_at(file: RemotePath, parts: list[tuple[int, bytes]], size: int, offset: int) -> bytes:
    for start, part in parts:
        if start <= offset and offset + size <= start + len(part):
            return part[offset - start : offset - start + size]
    return file.read_bytes(offset, offset + size)


class _TranslatingFile(io.RawIOBase):
    """A file of fsspec that raises Loupe's errors."""

    def __init__(self, file: Any, url: str) -> None:
        self._file = file
        self._url = url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return int(self._file.seek(offset, whence))
        except ValueError as error:  # for which other files raise OSError
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self._url) from error

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        with translate_errors(self._url):
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()
