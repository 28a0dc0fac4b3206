"""Checks of a Parquet file before pyarrow unpacks any of it.

pyarrow allocates what the page headers claim. The metadata at the end of a file repeat some of it,
and may claim anything else.

Source: Apache Parquet, "parquet.thrift", PageHeader; Apache Thrift, "Thrift Compact Protocol".
"""

import os
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe.files import SMALL_BYTES, max_unpacked_bytes
from worker.storage import AnyPath

FOOTER = struct.Struct("<L4s")  # length of the metadata, and "PAR1"
MAX_METADATA_BYTES = 2**23  # pyarrow takes twenty times as much memory
MAX_LIST = 100_000  # columns, or row groups
MIN_ROWS = 10_000  # that any file may have; more must have a byte each
MAX_PAGE_BYTES = 3 * 2**27  # packed and unpacked, which are in memory at the same time
MAX_PAGE_COMPRESSION = 4  # of pages above `SMALL_BYTES`
MAX_REPEATED_BYTES = 2**34  # of distinct values at their longest, for all rows; take a second
MAX_REPETITION = 1000  # times the size of the file; larger files may repeat more
SMALL_DICTIONARY_BYTES = 2**17  # a batch of such values fits into memory
MAX_ROWS_AT_A_TIME = 2**14
BUFFER_BYTES = 2**17
MAX_HEADER_BYTES = 2**20  # with the smallest and the largest value of the page
MAX_VARINT_BYTES = 10
DICTIONARY = 2  # type of page
VALUES_FIELDS = (5, 7, 8)  # headers of a data page, a dictionary page, and a newer data page
VARINTS, BOOLEANS, BYTE, BINARY, STRUCT = (4, 5, 6), (1, 2), 3, 8, 12  # types of fields


class TooCostly(Exception):
    """The file claims more than a worker should unpack."""


class Page(NamedTuple):
    """The header of a page.

    Attributes:
        is_dictionary: Whether it holds distinct values, which other pages refer to.
        values: Number of values.
        unpacked: Bytes of the unpacked page.
        packed: Bytes in the file.
    """

    is_dictionary: bool
    values: int
    unpacked: int
    packed: int


def check_footer(file: IO[bytes]) -> None:
    """Raise `TooCostly` if the metadata at the end of the file are too long."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - FOOTER.size))
    footer = file.read(FOOTER.size)
    file.seek(0)
    if len(footer) == FOOTER.size and MAX_METADATA_BYTES < FOOTER.unpack(footer)[0] < end:
        raise TooCostly(f"metadata of more than {MAX_METADATA_BYTES:,} bytes")


def open_file(path: AnyPath, file: IO[bytes], columns: Sequence[str] = ()) -> pq.ParquetFile:
    """Open a file whose footer has been checked.

    Args:
        path: A local file is read page by page. Of another one, whole columns are fetched.
        file: The opened file.
        columns: Columns whose distinct values are not repeated.
    """
    is_local = isinstance(path, Path)
    return pq.ParquetFile(
        path if is_local else file,
        read_dictionary=list(columns),
        pre_buffer=not is_local,
        buffer_size=BUFFER_BYTES if is_local else 0,
        thrift_container_size_limit=MAX_LIST,
    )


def check_rows(metadata: pq.FileMetaData, size: int) -> None:
    """Raise `TooCostly` if a file of `size` bytes claims too many rows."""
    if metadata.num_rows > max(MIN_ROWS, size):
        raise TooCostly(f"{metadata.num_rows:,} rows in {size:,} bytes")


def check_pages(
    path: AnyPath,
    file: IO[bytes],
    metadata: pq.FileMetaData,
    columns: Sequence[str],
    max_bytes: int,
) -> int:
    """Return how many rows of the columns, even the largest, take at most `max_bytes`.

    Raises:
        TooCostly: If the pages unpack to too much.
        ValueError: If they do not hold the rows that the metadata claim.
    """
    rows_at_a_time, size = MAX_ROWS_AT_A_TIME, file.seek(0, os.SEEK_END)
    unpacked = repeated = 0
    wanted = {*columns}
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group)
        if not rows.num_rows:  # it may have no pages
            continue
        for chunk in map(rows.column, range(rows.num_columns)):
            name = chunk.path_in_schema
            if _parents(name).isdisjoint(wanted):
                continue
            if not isinstance(path, Path):
                _check_fetched(chunk.total_compressed_size)
            values = 0
            start = _start(chunk)
            for page in read_pages(file, start, start + chunk.total_compressed_size):
                unpacked += page.unpacked
                _check_page(page, unpacked, size)
                longest = page.unpacked // max(page.values, 1)
                if not page.is_dictionary:
                    values += page.values
                elif page.unpacked > SMALL_DICTIONARY_BYTES:
                    longest = _longest_value(path, file, group, name) or page.unpacked
                    repeated += longest * rows.num_rows
                    _check_repeated(repeated, size)
                rows_at_a_time = min(rows_at_a_time, max_bytes // max(longest, 1))
            if values != rows.num_rows:
                raise ValueError(f"it claims {rows.num_rows:,} rows, and has {values:,}")
    return max(rows_at_a_time, 1)


def _parents(name: str) -> set[str]:
    """Return a path and those above it: `a.b` and `a`."""
    return {name, *(name[: dot.start()] for dot in re.finditer(r"\.", name))}


def _check_page(page: Page, total: int, size: int) -> None:
    is_dense = page.unpacked <= MAX_PAGE_COMPRESSION * page.packed
    fits = page.packed + page.unpacked <= MAX_PAGE_BYTES
    if page.unpacked > SMALL_BYTES and not (is_dense and fits):
        raise TooCostly(
            f"a page that unpacks from {page.packed:,} to {page.unpacked:,} bytes. "
            "Write it with fewer rows in a row group"
        )
    if total > max_unpacked_bytes(size):
        raise TooCostly(f"pages that unpack from {size:,} to more than {total:,} bytes")


def _check_fetched(size: int) -> None:
    if size > MAX_PAGE_BYTES:
        raise TooCostly(
            f"a column of {size:,} bytes in one row group, which workers fetch whole. "
            "Write smaller row groups"
        )


def _check_repeated(repeated: int, size: int) -> None:
    if repeated > max(MAX_REPEATED_BYTES, MAX_REPETITION * size):
        raise TooCostly(f"values that repeat to {repeated:,} bytes in a file of {size:,}")


def _start(chunk: pq.ColumnChunkMetaData) -> int:
    start = int(chunk.data_page_offset)
    return min(start, chunk.dictionary_page_offset) if chunk.has_dictionary_page else start


def _longest_value(path: AnyPath, file: IO[bytes], group: int, column: str) -> int:
    """Return the bytes of the longest value in a dictionary."""
    table = open_file(path, file, [column])
    values = next(table.iter_batches(1, row_groups=[group], columns=[column])).column(0)
    while pa.types.is_struct(values.type):
        values = values.field(0)
    if not pa.types.is_dictionary(values.type):
        return 1  # numbers
    return int(pc.max(pc.binary_length(values.dictionary)).as_py() or 0)


def read_pages(file: IO[bytes], start: int, stop: int) -> Iterator[Page]:
    """Yield the pages between two offsets of a file; raise `ValueError` if they are damaged."""
    while start < stop:
        file.seek(start)
        header = _read_struct(file, start + MAX_HEADER_BYTES)
        try:
            kind, unpacked, packed = header[1], header[2], header[3]
            values = next(header[field][1] for field in VALUES_FIELDS if field in header)
        except (KeyError, TypeError, StopIteration) as error:
            raise ValueError(f"no page header at {start:,}") from error
        start = file.tell() + packed
        if min(values, unpacked, packed) < 0 or start > stop:
            raise ValueError(f"a page that ends at {start:,}, behind its column")
        yield Page(kind == DICTIONARY, values, unpacked, packed)


def _read_struct(file: IO[bytes], stop: int) -> dict[int, Any]:
    """Return integers and structs by the numbers of their fields."""
    fields: dict[int, Any] = {}
    number = 0
    while head := _read_byte(file):
        if file.tell() > stop:
            raise ValueError(f"a page header of more than {MAX_HEADER_BYTES:,} bytes")
        step, kind = divmod(head, 16)
        number = number + step if step else _read_integer(file)
        if kind in VARINTS:
            fields[number] = _read_integer(file)
        elif kind == STRUCT:
            fields[number] = _read_struct(file, stop)
        elif kind == BINARY:
            file.seek(_read_varint(file), 1)
        elif kind == BYTE:
            _read_byte(file)
        elif kind not in BOOLEANS:
            raise ValueError(f"a page header with a field of type {kind}")
    return fields


def _read_integer(file: IO[bytes]) -> int:
    value = _read_varint(file)
    return (value >> 1) ^ -(value & 1)


def _read_varint(file: IO[bytes]) -> int:
    value = 0
    for position in range(MAX_VARINT_BYTES):
        byte = _read_byte(file)
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value
    raise ValueError("a number of more than ten bytes in a page header")


def _read_byte(file: IO[bytes]) -> int:
    byte = file.read(1)
    if not byte:
        raise ValueError("a page header at the end of the file")
    return byte[0]
