"""Select the pictures among the files of a source, and count the files that are skipped.

The content decides, not the name. A name that ends like a picture makes a file a record too: if its
content is something else, the record is an error.
"""

import posixpath
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from loupe.images.formats import format_of

Reason: TypeAlias = Literal[
    "hidden",
    "not_a_picture",
    "unsupported_format",
    "link_loop",
    "broken_link",
    "outside",
    "not_a_file",
    "unreadable",
    "not_looked_at",
    "no_class",
    "not_a_table",
]
SkippedFiles: TypeAlias = dict[Reason, dict[str, int]]
"""Numbers of skipped files by reason and suffix."""

REASONS: Final[dict[Reason, str]] = {
    "hidden": "hidden",
    "not_a_picture": "not a picture",
    "unsupported_format": "format not supported",
    "link_loop": "link to a folder that is read already",
    "broken_link": "broken link",
    "outside": "link out of the folders that jobs may read",
    "not_a_file": "not a regular file",
    "unreadable": "cannot be opened",
    "not_looked_at": "not looked into, and the name does not tell",
    "no_class": "in no folder of a class",
    "not_a_table": "beside Parquet files",
}


def _suffixes(names: str) -> frozenset[str]:
    return frozenset(f".{name}" for name in names.split())


PICTURE_SUFFIXES: Final = _suffixes(
    "png apng jpg jpeg jpe jif jfif webp bmp dib gif tif tiff "
    "avif heic heif hif jp2 j2k j2c jpc jpx jpf ico ppm pgm pbm pnm pfm"
)
# Most of them begin like TIFF files, and only their previews could be read as such.
RAW_SUFFIXES: Final = _suffixes(
    "3fr arw cr2 cr3 crw dcr dng erf iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf "
    "srw x3f"
)
UNSUPPORTED_SUFFIXES: Final = RAW_SUFFIXES | _suffixes(
    "svg svgz pdf eps ps ai psd psb xcf jxl jxr dcm fits exr hdr dds djvu icns qoi pcx avi m4v mkv "
    "mov mp4 mpg webm wmv"
)
COLLECTION_SUFFIXES: Final = _suffixes(
    "zip tar tgz gz bz2 xz zst npy npz csv tsv jsonl ndjson parquet"
)
TEXT_SUFFIXES: Final = _suffixes("txt md html htm xml json yaml yml log cls")
# Of files that are not looked into where that takes a request; `.raw` may be anything.
TELLING_SUFFIXES: Final = (
    PICTURE_SUFFIXES | UNSUPPORTED_SUFFIXES | COLLECTION_SUFFIXES | TEXT_SUFFIXES
) - {".raw"}
HIDDEN_FOLDER: Final = "__MACOSX"  # macOS adds it to archives
MAX_SUFFIXES: Final = 20  # that are counted for each reason; further ones count as `OTHER`
MAX_SUFFIX: Final = 12  # characters
NO_SUFFIX, OTHER = "none", "other"
MAX_SHOWN_SUFFIXES: Final = 5


class Skipped:
    """Counts of skipped files, of a bounded size.

    Attributes:
        files: The numbers by reason and suffix.
    """

    def __init__(self) -> None:
        self.files: SkippedFiles = {}

    def add(self, reason: Reason, path: str) -> None:
        """Count a file."""
        suffix = suffix_of(path) or NO_SUFFIX
        self._count(reason, suffix if len(suffix) <= MAX_SUFFIX else OTHER, 1)

    def update(self, files: SkippedFiles) -> None:
        """Add the numbers of other files."""
        for reason, suffixes in files.items():
            for suffix, number in suffixes.items():
                self._count(reason, suffix, number)

    def _count(self, reason: Reason, suffix: str, number: int) -> None:
        suffixes = self.files.setdefault(reason, {})
        if suffix not in suffixes and (len(suffixes) >= MAX_SUFFIXES or not suffix.isprintable()):
            suffix = OTHER
        suffixes[suffix] = suffixes.get(suffix, 0) + number


def count(files: SkippedFiles) -> int:
    """Return the number of skipped files."""
    return sum(sum(suffixes.values()) for suffixes in files.values())


def describe(files: SkippedFiles) -> str:
    """Return the numbers for people, such as `not a picture: .txt 10, .csv 1; hidden: .png 2`."""
    reasons = []
    for reason, suffixes in files.items():
        ordered = sorted(suffixes.items(), key=lambda item: -item[1])
        shown = [
            f"{'no suffix' if suffix == NO_SUFFIX else suffix} {number:,}"
            for suffix, number in ordered[:MAX_SHOWN_SUFFIXES]
        ]
        if len(ordered) > MAX_SHOWN_SUFFIXES:
            shown.append("…")
        reasons.append(f"{REASONS[reason]}: {', '.join(shown)}")
    return "; ".join(reasons)


def why_skipped(path: str, read_head: Callable[[], bytes] | None) -> Reason | None:
    """Return why a file is not a record of its source; `None` if it is one.

    Args:
        path: Path in the source, with `/` between the parts.
        read_head: Returns the first bytes of the file; it is called only if the name does not tell.
            Without it, names decide, and a file without a suffix is a record.

    Raises:
        OSError: As `read_head` does.
    """
    if is_hidden(path):
        return "hidden"
    suffix = suffix_of(path)
    if suffix in PICTURE_SUFFIXES:
        return None
    if read_head is None:
        if suffix in UNSUPPORTED_SUFFIXES:
            return "unsupported_format"
        if not suffix:
            return None
        return "not_a_picture" if suffix in TELLING_SUFFIXES else "not_looked_at"
    found = format_of(read_head())
    if suffix in RAW_SUFFIXES and (found is None or found.name == "TIFF"):
        return "unsupported_format"
    if found is None:
        return "not_a_picture"
    return None if found.is_read else "unsupported_format"


def name_tells(path: str) -> bool:
    """Return whether the name of a file is enough where each look into a file is a request."""
    return is_hidden(path) or suffix_of(path) in TELLING_SUFFIXES


def is_hidden(path: str) -> bool:
    """Return whether a file, or a folder on the path to it, is hidden."""
    if not (path.startswith(".") or "/." in path or HIDDEN_FOLDER in path):
        return False
    return any(
        part == HIDDEN_FOLDER or (part.startswith(".") and part not in (".", ".."))
        for part in path.split("/")
    )


def suffix_of(path: str) -> str:
    """Return the suffix of a name in lower case, empty if it has none."""
    return posixpath.splitext(path)[1].lower()
