"""Files and folders, by path or by URL. Those on this machine are `Path`s; others, which fsspec reaches, are asked in the same words.

An object store has neither folders nor renaming: a folder is what names begin with, and an object is there once it is whole.
"""

import asyncio
import errno
import fnmatch
import functools
import io
import os
import posixpath
import re
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TextIO, TypeAlias, TypeVar, cast, overload
from urllib.parse import unquote

from loupe.old_errors.worker import (
    InvalidSource,
    InvalidUrl,
    ProtocolUnavailable,
    SourceChanged,
    StorageRefused,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

PACKAGES = {
    "s3": "'loupe[s3]'",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "https": "aiohttp",
}  # that speak a protocol
REQUESTS = 64  # to one store at a time; more are answered no faster
OPTIONS: dict[str, dict[str, object]] = {
    "s3": {"config_kwargs": {"max_pool_connections": REQUESTS}}
}
BLOCK_BYTES = (
    4 * 2**20
)  # read at a time and ahead: on the way from a store, fewer take no less time
GAP_BYTES = 2**16  # between two ranges that are fetched as one

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.IGNORECASE | re.DOTALL)
_VERSIONS = (
    "ETag",
    "etag",
    "generation",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
)  # by protocol
_NO_WAY_IN = re.compile(
    "credential|auth|token|profile|sso", re.IGNORECASE
)  # in names of the stores' own errors
_OF_STORES = frozenset(
    {"aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google", "s3fs"}
)  # whose errors are no OSError


def parse_path(where: str | Path, *, https: bool = False) -> "AnyPath":
    """What a user's path or URL leads to, whether or not something is there.

    Args:
        where: A path, or a URL of `file`, `s3`, `gs`, `az`, `abfs` or `https`.
        https: Whether it may be one of `https`.

    Raises:
        InvalidUrl: If it is another URL.
        ProtocolUnavailable: If the package that speaks the protocol is missing.
    """
    url = None if isinstance(where, Path) else _URL.fullmatch(where)
    if url is None:
        return Path(where).absolute()
    protocol, rest = url[1].lower(), url[2]
    if protocol == "file":
        if not rest.startswith("/"):
            raise InvalidUrl(str(where), "a file on another machine")
        return Path(unquote(rest))
    if protocol not in PACKAGES:
        raise InvalidUrl(str(where), f"'{protocol}://'")
    if protocol == "https" and not https:
        raise InvalidUrl(str(where), "an https:// URL, which LOUPE_HTTPS_SOURCES does not allow")
    if not rest.partition("/")[0]:
        raise InvalidUrl(str(where), "no bucket, container or host")
    return RemotePath(str(where), protocol)


def is_url(where: str) -> bool:
    """Whether a text that leads to a place is no path."""
    return _URL.fullmatch(where) is not None


@functools.cache
def _store(protocol: str, url: str) -> Any:
    """fsspec's file system for a URL: one for each store, and none that remembers what it has seen there."""
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise ProtocolUnavailable(url, PACKAGES[protocol]) from error
    with translate_errors(url):
        return kind(
            use_listings_cache=False, **OPTIONS.get(protocol, {}), **kind._get_kwargs_from_urls(url)
        )


@dataclass(frozen=True)
class RemotePath:
    """A file or folder that is not on this machine. What `Path` can do as well has `Path`'s name and says the same.

    Whatever asks the store raises `StorageRefused` or `StorageUnavailable`, and `OSError` only where a `Path` would, too.
    """

    url: str
    protocol: str
    fs: Any = field(init=False, repr=False, compare=False)
    path: str = field(init=False, repr=False, compare=False)  # as fsspec has it

    def __post_init__(self) -> None:
        bucket = (
            self.bucket if self.protocol in {"az", "abfs"} else ""
        )  # which may name the account
        object.__setattr__(self, "fs", _store(self.protocol, f"{self.protocol}://{bucket}"))
        object.__setattr__(self, "path", self.fs._strip_protocol(self.url))

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemotePath":
        return RemotePath(f"{self.url.rstrip('/')}/{name}", self.protocol)

    @property
    def name(self) -> str:
        """Last part of the path."""
        return posixpath.basename(self._plain.rstrip("/"))

    @property
    def suffix(self) -> str:
        """Of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder it is in."""
        return RemotePath(posixpath.dirname(self._plain.rstrip("/")), self.protocol)

    @property
    def bucket(self) -> str:
        """Bucket, container or host: what no path leads out of."""
        return self._plain.split("/")[2]

    @property
    def _plain(self) -> str:
        """The URL without a query, which only `https` has."""
        return self.url.partition("?")[0] if self.protocol == "https" else self.url

    def below(self, path: str) -> "RemotePath | None":
        """Where a relative path leads from this folder; `None` if it leads out of the bucket, or is none."""
        protocol, _, folder = self.url.partition("://")
        joined = f"{folder.rstrip('/')}/{path}"
        if ".." in path.split("/"):
            joined = posixpath.normpath(joined)
        if path.startswith("/") or not joined.startswith(f"{self.bucket}/"):
            return None
        return RemotePath(f"{protocol}://{joined}", self.protocol)

    # Looking

    def info(self) -> dict[str, Any]:
        """What the store says of it; `FileNotFoundError` if there is nothing."""
        with translate_errors(self.url):
            return cast("dict[str, Any]", self.fs.info(self.path))

    def stamp(self) -> str:
        """Size and version of a file: changes when the file does."""
        return stamp_of(self.info())

    def exists(self) -> bool:
        """Whether there is a file, or anything below."""
        return self._kind() is not None

    def is_file(self) -> bool:
        """Whether there is a file."""
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is anything below."""
        return self._kind() == "directory"

    def _kind(self) -> str | None:
        try:
            return cast(str, self.info()["type"])
        except FileNotFoundError:
            return None

    def iterdir(self) -> Iterator["RemotePath"]:
        """Nothing where there is nothing, for that is what an empty folder is."""
        with translate_errors(self.url):
            try:
                found = self.fs.ls(self.path, detail=False)
            except FileNotFoundError:
                return
        names = (
            posixpath.basename(path) for path in found if path.rstrip("/") != self.path.rstrip("/")
        )
        yield from (self / name for name in sorted(names) if name)

    def glob(self, pattern: str) -> Iterator["RemotePath"]:
        """Only of names, without folders."""
        return (found for found in self.iterdir() if fnmatch.fnmatchcase(found.name, pattern))

    def find(self, pattern: str | None = None) -> dict[str, dict[str, Any]]:
        """All files below, or those that a pattern of paths below fits, and what the store says of them."""
        with translate_errors(self.url):
            if pattern is None:
                return cast("dict[str, dict[str, Any]]", self.fs.find(self.path, detail=True))
            return cast(
                "dict[str, dict[str, Any]]", self.fs.glob(f"{self.path}/{pattern}", detail=True)
            )

    # Reading

    @overload
    def open(self, mode: Literal["rb"]) -> BinaryIO: ...
    @overload
    def open(
        self, mode: Literal["r"] = "r", *, encoding: str = ..., newline: str | None = None
    ) -> TextIO: ...
    def open(
        self, mode: str = "r", *, encoding: str = "utf-8", newline: str | None = None
    ) -> BinaryIO | TextIO:
        """To read; a file that changes meanwhile raises `SourceChanged`."""
        with translate_errors(self.url):
            file = self.fs.open(self.path, "rb", block_size=BLOCK_BYTES, cache_type="readahead")
        if not file.seekable():
            raise InvalidSource(self.url, "a file of which its server sends no parts")
        raw = _File(file, self.url)
        if mode == "rb":
            return cast(BinaryIO, raw)
        return io.TextIOWrapper(
            io.BufferedReader(raw, BLOCK_BYTES), encoding=encoding, newline=newline
        )

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of a short file."""
        with translate_errors(self.url):
            return bytes(self.fs.cat_file(self.path)).decode(encoding)

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """A copy on this machine, while the context lasts."""
        with _temporary(self.suffix) as copy:
            self.download(copy)
            yield copy

    def download(self, to: Path) -> None:
        """Copy a file to this machine."""
        with translate_errors(self.url):
            self.fs.get_file(self.path, str(to))

    # Writing

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing is to be made: a folder is there with the first file in it."""

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove a file."""
        with translate_errors(self.url):
            try:
                self.fs.rm_file(self.path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def upload(self, file: Path, *, once: bool = False) -> None:
        """Put a file there, whole at once; with `once`, `FileExistsError` if there is one."""
        with translate_errors(self.url):
            self.fs.put_file(str(file), self.path, **({"mode": "create"} if once else {}))

    @contextmanager
    def publish(self, *, once: bool = False) -> Iterator[Path]:
        """An empty file on this machine that is put there, whole at once, when the block ends well.

        With `once`, `FileExistsError` if there is a file by then.
        """
        with _temporary(self.suffix) as file:
            yield file
            self.upload(file, once=once)


AnyPath: TypeAlias = Path | RemotePath
ReadAt: TypeAlias = Callable[[int, int], bytes]
"""As many bytes, from an offset on; fewer at the end of the file."""


def stamp_of(info: dict[str, Any]) -> str:
    """Size, and whatever a store tells versions apart by."""
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return f"{info.get('size')}-{version}"


def versions(files: Sequence[AnyPath]) -> list[str]:
    """What changes when one of these files does: size, and time of the last change or version; `FileNotFoundError` if one is gone."""
    remote = [file for file in files if isinstance(file, RemotePath)]
    infos = dict(zip(remote, _infos(remote), strict=True)) if remote else {}

    def stamp(file: AnyPath) -> str:
        if isinstance(file, Path):
            status = file.stat()
            return f"{status.st_size}-{status.st_mtime_ns}"
        with translate_errors(file.url):
            return stamp_of(unwrap(infos[file]))

    return list(map(stamp, files))


def missing_files(files: Sequence[AnyPath]) -> list[AnyPath]:
    """Those that are no files."""
    remote = [file for file in files if isinstance(file, RemotePath)]
    kinds: dict[RemotePath, str] = {}
    for file, info in zip(remote, _infos(remote) if remote else [], strict=True):
        with translate_errors(file.url), suppress(FileNotFoundError):
            kinds[file] = unwrap(info)["type"]
    return [
        file
        for file in files
        if not (file.is_file() if isinstance(file, Path) else kinds.get(file) == "file")
    ]


def _infos(files: Sequence[RemotePath]) -> list[dict[str, Any] | BaseException]:
    return gather(partial(file.fs._info, file.path) for file in files)


def is_inside(inner: AnyPath, outer: AnyPath) -> bool:
    """Whether one place is the other, or below it."""
    if isinstance(inner, Path) and isinstance(outer, Path):
        return inner.resolve().is_relative_to(outer.resolve())
    if isinstance(inner, RemotePath) and isinstance(outer, RemotePath) and inner.fs is outer.fs:
        return f"{inner.path.rstrip('/')}/".startswith(f"{outer.path.rstrip('/')}/")
    return False


@contextmanager
def local_copy(file: AnyPath) -> Iterator[Path]:
    """The file itself, or a copy of it on this machine."""
    if isinstance(file, Path):
        yield file
    else:
        with file.copied() as copy:
            yield copy


@contextmanager
def open_ranges(file: AnyPath, ranges: Iterable[tuple[int, int]]) -> Iterator[ReadAt]:
    """Read parts of a file.

    Args:
        file: A file.
        ranges: Start and stop of what will be read. It is fetched now, neighbours at once, if the file is not on this machine;
            more than that can be read, but costs a request each time.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            descriptor = opened.fileno()
            yield lambda size, offset: os.pread(descriptor, size, offset)
    else:
        yield partial(_within, file, _fetched(file, ranges))


def _fetched(file: RemotePath, ranges: Iterable[tuple[int, int]]) -> list[tuple[int, bytes]]:
    """Where each piece of the file begins, and its bytes."""
    from fsspec.utils import merge_offset_ranges

    wanted = sorted(ranges)
    starts, stops = [start for start, _ in wanted], [stop for _, stop in wanted]
    paths, starts, stops = merge_offset_ranges(
        [file.path] * len(wanted), starts, stops, max_gap=GAP_BYTES
    )
    pieces = gather(
        partial(file.fs._cat_file, path, start=start, end=stop)
        for path, start, stop in zip(paths, starts, stops, strict=True)
    )
    with translate_errors(file.url):
        return [(start, unwrap(piece)) for start, piece in zip(starts, pieces, strict=True)]


def _within(file: RemotePath, pieces: list[tuple[int, bytes]], size: int, offset: int) -> bytes:
    for start, piece in pieces:
        if start <= offset and offset + size <= start + len(piece):
            return piece[offset - start : offset - start + size]
    with translate_errors(file.url):
        return bytes(file.fs.cat_file(file.path, start=offset, end=offset + size)) if size else b""


def gather(requests: Iterable[Callable[[], Awaitable[T]]]) -> list[T | BaseException]:
    """What many requests to stores answer, `REQUESTS` of them at a time."""
    from fsspec.asyn import get_loop, sync

    async def answered() -> list[T | BaseException]:
        free = asyncio.Semaphore(REQUESTS)

        async def answer(request: Callable[[], Awaitable[T]]) -> T:
            async with free:
                return await request()

        return await asyncio.gather(*map(answer, requests), return_exceptions=True)

    return cast("list[T | BaseException]", sync(get_loop(), answered))


def unwrap(answer: T | BaseException) -> T:
    """An answer, unless it is an error."""
    if isinstance(answer, BaseException):
        raise answer
    return answer


@contextmanager
def translate_errors(where: str) -> Iterator[None]:
    """What a store says, as errors of Loupe; that there is no such file, or already one, as Python says it."""
    try:
        yield
    except FileNotFoundError as error:
        _raise_other_than_not_found(error.__cause__, where)
        said = _line(error)  # a sentence, or only the path once more
        raise FileNotFoundError(
            errno.ENOENT, said if " " in said else os.strerror(errno.ENOENT), where
        ) from error
    except FileExistsError:
        raise
    except Exception as error:
        kinds = type(error).__mro__
        if isinstance(error, PermissionError) or any(
            _NO_WAY_IN.search(kind.__name__) for kind in kinds
        ):
            raise StorageRefused(where, _line(error)) from error
        if isinstance(error, OSError) and "pre-condition" in _line(
            error
        ):  # of a file that was to be new
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), where) from error
        if (
            type(error).__name__ == "FileExpired"
        ):  # s3fs: the object is another one than that which was opened
            raise SourceChanged(where) from error
        if type(error).__name__ == "ParamValidationError":  # botocore: no bucket can have this name
            raise InvalidUrl(where, _line(error)) from error
        if isinstance(error, OSError | asyncio.TimeoutError) or _OF_STORES & {
            kind.__module__.partition(".")[0] for kind in kinds
        }:
            raise StorageUnavailable(where, _line(error) or type(error).__name__) from error
        raise


def _raise_other_than_not_found(answer: BaseException | None, where: str) -> None:
    """Raises what a web server's answer is, if that is not that there is no such file: fsspec makes `FileNotFoundError` of them all."""
    if answer is None or not type(answer).__module__.startswith("aiohttp"):
        return
    status = getattr(answer, "status", None)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise StorageRefused(where, _line(answer)) from answer
    if status not in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        raise StorageUnavailable(where, _line(answer)) from answer


def _line(error: BaseException) -> str:
    """What an error says, on one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split()).rstrip(".")


@contextmanager
def _temporary(suffix: str) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(prefix="loupe-", suffix=suffix)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


class _File(io.RawIOBase):
    """fsspec's file, whose errors are Loupe's."""

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
        except ValueError as error:  # before the start, of which other files say so
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self._url) from error

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        with translate_errors(self._url):
            return int(self._file.readinto(buffer))

    def close(self) -> None:
        self._file.close()
        super().close()
