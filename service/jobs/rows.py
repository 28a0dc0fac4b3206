"""Pages of the rows and errors of a job: filtered, or the least sure first."""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import orjson
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from loupe.results import Format
from service.jobs.requests import MAX_COUNT

if TYPE_CHECKING:
    import pyarrow as pa

MAX_PAGE = 500  # rows
MAX_SORTED = 10_000  # rows that are kept while a sorted page is looked for
MAX_TEXT = 4096  # characters of a label in a query


class RowsRequest(BaseModel):
    """A page of rows.

    Attributes:
        label: Only rows with this label; an empty one stands for rows without a label.
        min_confidence: Only rows at least as confident.
        max_confidence: Only rows at most as confident.
        max_familiarity: Only pictures at most as familiar.
        wrong: Only rows whose label differs from the true one.
        sort: Column by which the lowest values come first; the order of the source by default.
        offset: Number of rows before the page.
        limit: Maximum number of rows.
    """

    model_config = ConfigDict(extra="forbid")

    label: str | None = Field(default=None, max_length=MAX_TEXT)
    min_confidence: float | None = Field(default=None, ge=0, le=1)
    max_confidence: float | None = Field(default=None, ge=0, le=1)
    max_familiarity: float | None = Field(default=None, ge=0, le=1)
    wrong: bool = False
    sort: Literal["confidence", "familiarity"] | None = None
    offset: int = Field(default=0, ge=0, le=MAX_COUNT)
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)

    @model_validator(mode="after")
    def _check_depth(self) -> "RowsRequest":
        if self.sort is not None and self.offset + self.limit > MAX_SORTED:
            raise ValueError(f"only the first {MAX_SORTED:,} rows are sorted")
        return self


class ErrorsRequest(BaseModel):
    """A page of errors, in the order of the source."""

    model_config = ConfigDict(extra="forbid")

    offset: int = Field(default=0, ge=0, le=MAX_COUNT)
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)


Page: TypeAlias = dict[str, object]


def read_page(
    paths: list[Path],
    kind: Format,
    columns: dict[str, str] | None,
    asked: RowsRequest,
    check: Callable[[], None],
    kept: Sequence[str] = (),
) -> Page:
    """Return a page of the matching rows, without the probabilities of all classes, and counts.

    Reads all rows in batches, whatever the page is, so that it can count those that match.

    Args:
        paths: The files, at least one.
        kind: Their format.
        columns: Names and types of their columns, if they are known.
        asked: The request.
        check: Raises if the caller has gone; called for each batch.
        kept: Columns of the source, which may be named like probabilities.
    """
    import pyarrow as pa

    from loupe.conversion import plain_rows, schema_of

    schema = schema_of(paths, kind, columns)
    shown = [name for name in schema.names if name in kept or not name.startswith("p_")]
    schema = pa.schema([schema.field(name) for name in shown])
    total = matched = 0
    page = pa.table({field.name: pa.array([], field.type) for field in schema}, schema)
    for batch in _batches(paths, kind, schema, is_known=columns is not None):
        check()
        found = _matching(batch, asked)
        total += len(batch)
        if asked.sort is None or asked.sort not in schema.names:
            first = max(asked.offset - matched, 0)
            page = pa.concat_tables([page, pa.table(found[first:][: asked.limit - len(page)])])
        else:
            page = pa.concat_tables([page, pa.table(found)]).sort_by(asked.sort)
            page = page[: asked.offset + asked.limit].combine_chunks()
        matched += len(found)
    if asked.sort in schema.names:
        page = page[asked.offset :]
    rows = [row for batch in page.to_batches() for row in plain_rows(batch)]
    return {"rows": rows, "offset": asked.offset, "matched": matched, "total": total}


def _batches(
    paths: list[Path], kind: Format, schema: "pa.Schema", *, is_known: bool
) -> "Iterator[pa.RecordBatch]":
    from loupe.conversion import MAX_ROWS, read_rows

    if kind == "jsonl" and is_known:  # Python would parse for ten times as long, and hold others up
        from pyarrow import dataset

        files = dataset.dataset([str(path) for path in paths], schema, format="json")
        yield from files.to_batches(
            batch_size=MAX_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False
        )
        return
    for path in paths:
        yield from read_rows(path, kind, schema)


def _matching(batch: "pa.RecordBatch", asked: RowsRequest) -> "pa.RecordBatch":
    """Return the matching rows of a batch."""
    import pyarrow.compute as pc

    names = batch.schema.names
    if (asked.max_familiarity is not None and "familiarity" not in names) or (
        asked.wrong and "label_true" not in names
    ):
        return batch[:0]
    conditions = []
    if asked.label is not None:
        column = batch["label"]
        conditions.append(pc.equal(column, asked.label) if asked.label else pc.is_null(column))
    if asked.min_confidence is not None:
        conditions.append(pc.greater_equal(batch["confidence"], asked.min_confidence))
    if asked.max_confidence is not None:
        conditions.append(pc.less_equal(batch["confidence"], asked.max_confidence))
    if asked.max_familiarity is not None:
        conditions.append(pc.less_equal(batch["familiarity"], asked.max_familiarity))
    if asked.wrong:
        conditions.append(pc.not_equal(batch["label"], batch["label_true"]))
    return batch.filter(reduce(pc.and_, conditions)) if conditions else batch


def read_errors(paths: list[Path], asked: ErrorsRequest) -> Page:
    """Return errors, and the number of all."""
    total = 0
    rows: list[JsonValue] = []
    for path in paths:
        with path.open("rb") as lines:
            found = sum(1 for _ in lines)
            first = max(asked.offset - total, 0)
            if len(rows) < asked.limit and first < found:
                lines.seek(0)
                stop = first + asked.limit - len(rows)
                rows += [orjson.loads(line) for line in islice(lines, first, stop)]
            total += found
    return {"rows": rows, "offset": asked.offset, "matched": total, "total": total}
