"""Paths of files and folders, on this machine (`pathlib.Path`) or elsewhere (`RemotePath`)."""

import io
import ipaddress
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar
from urllib.parse import unquote

from loupe.errors import InvalidUrl
from loupe.files import ReadableFolders, atomic_path, open_regular
from loupe.images.arrays.delimited import detect_encoding
from loupe.settings import HttpsAccess
from worker.remote_path import MAX_REQUESTS, PACKAGES, RemotePath
from worker.storage_errors import translate_errors

T = TypeVar("T")
R = TypeVar("R")

AnyPath: TypeAlias = Path | RemotePath
ReadAt: TypeAlias = Callable[[int, int], bytes]
"""Reads that many bytes at an offset; fewer at the end of the file."""

MAX_GAP_BYTES = 2**16  # between two ranges that one request fetches
URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
# Keys under which the stores report a file's version.
VERSION_KEYS = (
    *("ETag", "etag", "generation"),
    *("Last-Modified", "LastModified", "last_modified", "mtime"),
)


def parse_path(path: str | Path, *, https: HttpsAccess = "none") -> AnyPath:
    """Return the absolute path that a user's path or URL means. It need not exist.

    Args:
        path: A path, or a URL of `file`, `s3`, `gs`, `az`, `abfs` or `https`.
        https: Which addresses `https` URLs may lead to.

    Raises:
        InvalidUrl: If Loupe cannot read the URL.
        StorageUnavailable: If the package for the protocol is missing.
    """
    match = None if isinstance(path, Path) else URL.fullmatch(path)
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
    if protocol == "https" and https == "none":
        raise InvalidUrl(f"'{url}' is not allowed. Set LOUPE_HTTPS_SOURCES to allow https://.")
    is_valid = _is_host(bucket) if protocol == "https" else "::" not in bucket
    if not bucket or not is_valid:
        raise InvalidUrl(f"'{url}' names no bucket, container or host.")
    return RemotePath(url, private=https == "any")


def _is_host(bucket: str) -> bool:
    """Return whether the host has no brackets and no `::`, or is an IPv6 address in brackets.

    fsspec would take any other `::` for a chain of URLs.
    """
    match = re.fullmatch(r"(?:[^\[\]]*@)?\[([^\[\]]*)\](?::\d*)?", bucket)
    if match is None:
        return not any(text in bucket for text in ("[", "]", "::"))
    try:
        ipaddress.IPv6Address(match[1])
    except ValueError:
        return False
    return True


def open_file(file: AnyPath, folders: ReadableFolders | None = None) -> IO[bytes]:
    """Open a file for reading; raise `OSError` if it is not a regular file in the folders."""
    return file.open("rb") if isinstance(file, RemotePath) else open_regular(file, folders)


def open_text(
    file: AnyPath, encoding: str | None = "utf-8", folders: ReadableFolders | None = None
) -> IO[str]:
    """Open a text file as `open_file` does; line breaks stay. `None` detects the encoding."""
    opened = io.BufferedReader(open_file(file, folders))  # type: ignore[type-var]
    return io.TextIOWrapper(opened, encoding or detect_encoding(opened.peek()), newline="")


def read_text(file: AnyPath) -> str:
    """Read a short text file."""
    if isinstance(file, RemotePath):
        return file.read_bytes().decode()
    with open_regular(file) as opened:
        return opened.read().decode()


def size_of(file: AnyPath) -> int:
    """Return the size of a file in bytes."""
    return int(file.info()["size"]) if isinstance(file, RemotePath) else file.stat().st_size


def is_url(text: str) -> bool:
    """Return whether a text is a URL and not a path."""
    return URL.fullmatch(text) is not None


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
    version = next((str(info[key]) for key in VERSION_KEYS if info.get(key)), "")
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
        with tempfile.NamedTemporaryFile(prefix="loupe-", suffix=file.suffix) as copy:
            file.download(Path(copy.name))
            yield Path(copy.name)


@contextmanager
def publish(path: AnyPath, *, new: bool = False) -> Iterator[Path]:
    """Yield a temporary local file that appears at `path` when the block ends without an error.

    With `new`, raise `FileExistsError` if there is a file by then.
    """
    if isinstance(path, Path):
        with atomic_path(path, sync=True, new=new) as temporary:
            yield temporary
    else:
        with tempfile.NamedTemporaryFile(prefix="loupe-", suffix=path.suffix) as file:
            yield Path(file.name)
            path.upload(Path(file.name), new=new)


def write_file(path: AnyPath, data: bytes | str, *, new: bool = False) -> None:
    """Write a file as `publish` does. Text is encoded as UTF-8."""
    with publish(path, new=new) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def open_ranges(
    file: AnyPath, ranges: Iterable[tuple[int, int]], folders: ReadableFolders | None = None
) -> Iterator[ReadAt]:
    """Open a file to read parts of it.

    Args:
        file: A file.
        ranges: Start and stop of the parts. A remote file's parts are fetched now, neighbours in
            one request; each other part costs a request when it is read.
        folders: Those that a local file must be in; all by default.
    """
    if isinstance(file, Path):
        with open_regular(file, folders) as opened:
            descriptor = opened.fileno()
            yield lambda size, offset: os.pread(descriptor, size, offset)
    else:
        yield partial(_read_at, file, _fetch_ranges(file, ranges))


def _fetch_ranges(file: RemotePath, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Return offset and bytes of the merged ranges."""
    from fsspec.utils import merge_offset_ranges

    ordered = sorted((start, stop) for start, stop in ranges if start < stop)
    starts, stops = [start for start, _ in ordered], [stop for _, stop in ordered]
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
