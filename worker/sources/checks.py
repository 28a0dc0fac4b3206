"""Checks that sources share, and the errors for what they find."""

import codecs
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress

from loupe.errors import InvalidSource, SourceChanged
from loupe.images.arrays.idx import GZIP_MAGIC
from loupe.images.arrays.npy import NPY_MAGIC
from loupe.images.formats import HEAD_BYTES, format_of
from loupe.jobs import ScoringOptions
from worker.sources.archives.unpacking import compression_of

# In error messages.
MAX_LISTED_COLUMNS, MAX_LISTED_CHARACTERS, MAX_REASON_CHARACTERS = 12, 80, 300

UNPACK, EXPORT = "Unpack it, or pack the pictures as zip or tar.", "Save the images as .npz."
# Files that are taken for sources, how they begin, and what to do.
OTHERS = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), kind, advice)
    for pattern, kind, advice in (
        (rb"7z\xbc\xaf\x27\x1c", "is a 7z archive", UNPACK),
        (rb"Rar!\x1a\x07", "is a RAR archive", UNPACK),
        (rb"\0{512}", "is an empty tar archive, or holds only zeros", "Make it again."),
        (rb"\x89HDF\r\n\x1a\n", "is an HDF5 file", EXPORT),
        (rb"MATLAB \d", "is a file of MATLAB", EXPORT),
        (rb"\x80[\2-\5][\x95c}\](]", "is a pickle", EXPORT),
        (rb"ARROW1", "is an Arrow file", "Save the table as Parquet."),
        (rb"SQLite format 3\0", "is an SQLite database", "Save the table as Parquet or CSV."),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1", "is an Excel file", "Save the table as CSV."),
        (rb"version https://git-lfs", "is a pointer of Git LFS", "Fetch the file: git lfs pull."),
        (rb"\s*<(!doctype )?html", "is a web page", "Check its address, and download it again."),
    )
)


def check_unchanged(source: object, planned: str, now: str) -> None:
    """Raise `SourceChanged` if two versions of a source differ."""
    if planned != now:
        raise SourceChanged(
            f"'{source}' has changed since the job began. Score it again into a new folder."
        )


def check_columns(source: object, options: ScoringOptions, columns: Sequence[str] | None) -> None:
    """Raise `InvalidSource` if a source without columns, or with these, lacks a requested one."""
    wanted = [options.id, *options.columns, options.image_column if columns is None else None]
    for column in filter(None, wanted):
        if column not in (columns or ()):
            known = "only tables, manifests, .npz and WebDataset archives have columns"
            if columns is not None:
                known = f"it has {listed(columns)}"
            raise InvalidSource(
                f"'{source}' has no column {column!r}: {known}.", code="column_not_found"
            )


def listed(names: Sequence[str]) -> str:
    """Return the first names for an error message, long ones cut."""
    shown = [short(name, MAX_LISTED_CHARACTERS) for name in names[:MAX_LISTED_COLUMNS]]
    return (", ".join(shown) or "none") + (" …" if len(names) > MAX_LISTED_COLUMNS else "")


def short(text: object, limit: int = MAX_REASON_CHARACTERS) -> str:
    """Return a text for an error message, cut if it is long; a source may hold any text."""
    shown = str(text)
    return shown if len(shown) <= limit else f"{shown[:limit]} …"


def damaged(source: str, error: Exception) -> InvalidSource:
    """Return the error for a file that cannot be read as what it seems to be."""
    return InvalidSource(f"The {source} is damaged: {short(error).rstrip('.')}.")


def check_kind(source: object, head: bytes, *, is_manifest: bool) -> None:
    """Raise `InvalidSource` for a file that is clearly no manifest or array; say what it is.

    Args:
        source: The file.
        head: Its first bytes, or all of a smaller one.
        is_manifest: Whether it has a name of manifests, which are text.
    """
    problem = _what_else(head, is_manifest=is_manifest)
    if problem is not None:
        raise InvalidSource(f"'{source}' {problem}")


def _what_else(head: bytes, *, is_manifest: bool) -> str | None:
    """Return what a file is instead of a manifest or an array, and what to do."""
    if not head:
        return "is empty. Copy or download it again."
    if found := format_of(head):
        if found.is_read:
            return f"is one picture ({found.name}), not a set. Predict it: loupe predict FILE"
        return f"is a file of the format {found.name}, which Loupe does not read."
    for pattern, kind, advice in OTHERS:
        if pattern.match(head):
            return f"{kind}. {advice}"
    unpacked = b""
    if head.startswith(GZIP_MAGIC):
        with suppress(zlib.error):
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    if compression_of(head) or (unpacked and not unpacked.startswith((b"\0\0", NPY_MAGIC))):
        return "is compressed, and neither a tar archive nor an array. Unpack it."
    if re.match(rb"\0{512}", unpacked):
        return "is an empty tar archive, or holds only zeros. Make it again."
    if not is_manifest and _is_text(head):
        return (
            "is text, not images. A manifest, which lists their paths, has a name in .csv, .tsv or "
            ".jsonl, and cannot be uploaded."
        )
    return None


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head)
    except UnicodeDecodeError:
        return False
    return min(text, default=" ") >= "\t"  # no control characters
