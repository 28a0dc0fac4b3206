"""Picture files that are not on this machine: below a URL, or those that a pattern of URLs names."""

import glob
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile

from loupe.errors import InvalidImage
from loupe.images.decode import MAX_FILE_BYTES
from loupe.old_errors.worker import InvalidSource, SourceChanged
from worker.sources.folders import Folder, Pattern, is_picture
from worker.sources.pictures import Entry, Read, reading_fetched
from worker.storage import RemotePath, gather, stamp_of, translate_errors


class Bucket:
    """Picture files below a URL, in the order that `Folder` has; hidden ones are passed over."""

    nothing = Folder.nothing
    quick = False

    def __init__(self, folder: RemotePath) -> None:
        self.where = str(folder)
        self._folder = folder

    def stamp(self) -> str:
        """Nothing: each file is compared when it is read."""
        return ""

    def entries(self, notes: object = None) -> Iterator[Entry]:
        """See `Collection.entries`. The whole listing is held in memory, a kilobyte for each file."""
        below = len(self._folder.path.rstrip("/")) + 1
        found = {
            path[below:]: info
            for path, info in self._folder.find().items()
            if info["type"] == "file"
        }
        for name in sorted(filter(_is_seen, found), key=_as_in_a_folder):
            yield _entry(name, found[name])

    @contextmanager
    def reading(self, entries: Sequence[Entry], notes: object) -> Iterator[Read]:
        """See `Collection.reading`."""
        files = [(self._folder / entry.id, *entry.where) for entry in entries]
        yield reading_fetched(entries, gather(partial(_fetch, *file) for file in files))

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return int(entry.where[0])


class BucketPattern(Bucket):
    """Picture files that a pattern such as `s3://bucket/photos/**/*.png` names, in the order of their paths."""

    nothing = f"a pattern that no {Pattern.nothing.partition(' without ')[2].removesuffix(' files')} file fits"

    def __init__(self, pattern: RemotePath) -> None:
        folder, self._pattern = _split(pattern)
        super().__init__(folder)
        self.where = pattern.url

    def entries(self, notes: object = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        below = len(self._folder.path.rstrip("/")) + 1
        found = self._folder.find(self._pattern)
        for path in sorted(
            path for path in found if found[path]["type"] == "file" and _is_seen(path[below:])
        ):
            yield _entry(path[below:], found[path])


def matching(pattern: RemotePath) -> list[RemotePath]:
    """The files that a pattern names."""
    folder, below = _split(pattern)
    start = len(folder.path.rstrip("/")) + 1
    return [
        folder / path[start:] for path, info in folder.find(below).items() if info["type"] == "file"
    ]


async def fetch(file: RemotePath) -> bytes:
    """A picture file's bytes, if it is not too long for one."""
    with translate_errors(file.url):
        info = await file.fs._info(file.path)
        if info["type"] != "file" or info.get("size") is None:
            raise InvalidImage("This is not a file of known size.")
        return await _bytes(file, info["size"])


async def _fetch(file: RemotePath, size: int, stamp: str) -> bytes:
    """A picture file's bytes, if it is still the one that was listed."""
    with translate_errors(file.url):
        data = await _bytes(file, size)
        if stamp_of(await file.fs._info(file.path)) != stamp:
            raise SourceChanged(file.url)
        return data


async def _bytes(file: RemotePath, size: int) -> bytes:
    if size > MAX_FILE_BYTES:
        raise InvalidImage(
            f"The file has {size:,} bytes; at most {MAX_FILE_BYTES:,} can be a picture."
        )
    return bytes(await file.fs._cat_file(file.path, start=0, end=size)) if size else b""


def _split(pattern: RemotePath) -> tuple[RemotePath, str]:
    """The folder that stands for itself, and what is to be found below it."""
    protocol, _, rest = pattern.url.partition("://")
    fixed = "/".join(takewhile(lambda part: not glob.has_magic(part), rest.split("/")))
    if not fixed:
        raise InvalidSource(pattern.url, "a pattern of buckets")
    return RemotePath(f"{protocol}://{fixed}", pattern.protocol), rest[len(fixed) + 1 :]


def _entry(name: str, info: dict[str, object]) -> Entry:
    return Entry(name, [info["size"], stamp_of(info)])


def _is_seen(path: str) -> bool:
    return is_picture(path) and not any(
        part.startswith(".") for part in posixpath.dirname(path).split("/")
    )


def _as_in_a_folder(path: str) -> list[tuple[bool, str]]:
    """Of each folder first its files, then what is in the folders below, as `os.walk` goes."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]
