"""Rows of tables: read from a Parquet file, and turned into records."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loupe.errors import InvalidPixels, InvalidSource, LoupeError
from loupe.files import printable
from loupe.images.spec import UInt8Array
from worker.sources.listing import MAX_ENTRY_BYTES
from worker.sources.source import Records

NO_ID = "The row has no id."


VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def without_views(schema: pa.Schema) -> pa.Schema:
    """Return a schema whose views are plain texts and bytes: Arrow does little with views."""
    return pa.schema([field.with_type(_without_views(field.type)) for field in schema])


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in kind])
    return VIEWS.get(kind, kind)


def read_rows(
    file: pq.ParquetFile, start: int, stop: int, batch_size: int, columns: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches of rows with the number of their first row; other row groups are not read."""
    groups: list[int] = []
    row = group_start = 0
    for group in range(file.num_row_groups):
        group_stop = group_start + file.metadata.row_group(group).num_rows
        if group_start < stop and group_stop > start:
            row = row if groups else group_start
            groups.append(group)
        group_start = group_stop
    for rows in file.iter_batches(batch_size, row_groups=groups, columns=columns):
        first, last = max(start, row), min(stop, row + len(rows))
        if first < last:
            found = rows.slice(first - row, last - first)
            schema = without_views(rows.schema)
            yield first, found if schema.equals(rows.schema) else found.cast(schema)
        row += len(rows)
        if row >= stop:
            return
    raise ValueError(f"its rows end at {row:,}, before {stop:,}")


def stacked(
    ids: list[Any],
    images: UInt8Array,
    are_valid: NDArray[np.bool_],
    start: int,
    kept: pa.Table | None,
    problem: str = "The row has a pixel that is no integer in 0..255.",
) -> Records:
    """Return the images of rows; invalid ones and those without an id become errors.

    Args:
        ids: `None` for a row without one.
        images: uint8, shape `(len(ids), *shape)` of the model.
        are_valid: Whether all pixels of a row are.
        start: Number of the first row.
        kept: Requested columns, a row for each id.
        problem: What is wrong with rows that are not valid.
    """
    good = are_valid & np.array([name is not None for name in ids])
    errors: list[tuple[str, LoupeError]] = [
        (
            row_name(ids[row], start + row),
            InvalidSource(NO_ID, code="invalid_record")
            if are_valid[row]
            else InvalidPixels(problem),
        )
        for row in np.flatnonzero(~good).tolist()
    ]
    return Records(
        [ids[row] for row in np.flatnonzero(good)],
        images[good],
        errors,
        None if kept is None else kept.filter(pa.array(good)),
    )


def row_name(name: Any, row: int) -> str:
    """Return the id of a row for an error; its number if it has none."""
    return f"row {row}" if name is None else str(name)


def id_text(value: Any) -> str | None:
    """Return an id as text; `None` if it is missing, which NaN marks, too."""
    if value is None or value != value:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return printable(str(value))


def check_texts(source: object, columns: Iterable[tuple[str, pa.ChunkedArray | pa.Array]]) -> None:
    """Raise `InvalidSource` if a column has a text that is too long for a row of results."""
    for name, column in columns:
        kinds = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
        if column.type not in kinds:
            continue
        longest = pc.max(pc.binary_length(column)).as_py() or 0
        if longest > MAX_ENTRY_BYTES:
            raise InvalidSource(
                f"Column '{name}' of '{source}' has a text of {longest:,} bytes; "
                f"at most {MAX_ENTRY_BYTES:,} are allowed.",
                code="source_too_large",
            )
