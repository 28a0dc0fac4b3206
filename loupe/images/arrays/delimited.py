"""The encoding and the delimiter of text tables, as spreadsheets export them."""

import codecs
import csv
from collections.abc import Container

DELIMITERS = (",", ";", "\t")


def detect_encoding(head: bytes) -> str:
    """Return UTF-16 for a file that begins so, with or without a byte-order mark; else UTF-8."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # The first letter of a header has a zero in one of its two bytes.
    if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        return "utf-16-be" if head[0] == 0 else "utf-16-le"
    return "utf-8-sig"


def detect_delimiter(header: str, wanted: Container[str] = ()) -> str:
    """Return the delimiter that gives a wanted column; else the one that gives the most columns.

    Args:
        header: First line of a table.
        wanted: Names of columns.
    """

    def quality(delimiter: str) -> tuple[bool, int]:
        names = split_line(header, delimiter)
        return any(name in wanted for name in names), len(names)

    return max(DELIMITERS, key=quality)


def split_line(line: str, delimiter: str) -> list[str]:
    """Return the values of a line, none if it is damaged."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
