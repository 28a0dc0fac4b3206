"""Tables with a row for each image and a column for each of its pixels, such as Kaggle's CSV."""

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import compress, product
from typing import IO, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from loupe.images.arrays.delimited import detect_delimiter, detect_encoding, split_line
from loupe.images.spec import MAX_SIDE, MIN_SIDE, ImageSpec, UInt8Array

Numbers: TypeAlias = tuple[int, ...]

MIN_COLUMNS = MIN_SIDE**2  # fewer columns are something else
# `pixel17`, `17`, or `3x28` for row and column. Longer numbers are not pixels.
NUMBER = re.compile(r"[0-9]{1,5}")
SHOWN_NUMBERS = 3  # in error messages
HEAD_BYTES = 2**16  # of a CSV; enough for the header of most
LONG_HEAD_BYTES = 2**20  # with the header of images of 128 × 128 × 3
BLOCK_BYTES = 2**22  # of a CSV in memory; a row has fewer
MAX_RAGGED_BYTES = 2**23  # of pixels that the rows of a wrong length in a block should have
INTEGER = r"^[0-9]+(\.0*)?$"


class Layout(NamedTuple):
    """The columns of a CSV of pixels.

    Attributes:
        encoding: Name of the encoding.
        delimiter: Character between two values.
        names: All columns in their order.
        pixels: Indices of the columns of pixels, in the order of the pixels.
        has_header: Whether the first line is not an image.
        spec: Size and channels of an image.
    """

    encoding: str
    delimiter: str
    names: list[str]
    pixels: list[int]
    has_header: bool
    spec: ImageSpec

    @property
    def others(self) -> list[str]:
        """The columns that are not pixels."""
        pixels = {*self.pixels}
        return [name for index, name in enumerate(self.names) if index not in pixels]


class Rows(NamedTuple):
    """Consecutive rows of a CSV of pixels.

    Attributes:
        pixels: uint8, shape `(n, pixels of an image)`.
        are_valid: Whether all pixels of a row are.
        columns: The requested columns as text; null in a row that has more or fewer values.
    """

    pixels: UInt8Array
    are_valid: NDArray[np.bool_]
    columns: pa.Table


def pixel_columns(names: Iterable[str], spec: ImageSpec) -> list[str]:
    """Return the columns of pixels in the order of their numbers; the list may be empty.

    The numbers go row by row, and through the colours of each pixel. Files often have the columns
    in another order, sorted by name for example: pixel0, pixel1, pixel10.

    Raises:
        ValueError: If there are nearly as many as an image has, or as many as an image of another
            size has, or if numbers are missing or repeated.
    """
    found = _numbered(names)
    if len(found) < spec.nbytes // 2 and not _sizes(len(found)):
        return []
    if [numbers for numbers, _ in found] not in _numberings(spec):
        raise ValueError(_problem(found, spec))
    return [name for _, name in found]


def _numbered(names: Iterable[str]) -> list[tuple[Numbers, str]]:
    """Return the most names that differ only in numbers, sorted by these."""
    groups: dict[str, list[tuple[Numbers, str]]] = defaultdict(list)
    for name in names:
        if numbers := tuple(map(int, NUMBER.findall(name))):
            groups[NUMBER.sub("#", name)].append((numbers, name))
    return _without_constants(max(groups.values(), key=len, default=[]))


def _without_constants(found: list[tuple[Numbers, str]]) -> list[tuple[Numbers, str]]:
    """Return sorted names with the numbers that differ, for example without the 2 of `v2_px17`."""
    columns = zip(*(numbers for numbers, _ in found), strict=True)
    differing = [len({*values}) > 1 for values in columns]
    return sorted((tuple(compress(numbers, differing)), name) for numbers, name in found)


@cache
def _squares() -> list[ImageSpec]:
    """Return the square images that a model can take; each has another number of pixels."""
    sides = range(MIN_SIDE, MAX_SIDE + 1)
    grey = [ImageSpec("photo", side, side) for side in sides]
    return [*grey, *(ImageSpec("photo", side, side, 3) for side in sides)]


def _sizes(count: int) -> str:
    """Return the size of square images with as many pixels, or an empty text."""
    return "".join(str(spec) for spec in _squares() if spec.nbytes == count)


def _square(count: int) -> ImageSpec:
    """Return the square image that has as many pixels, or nearly."""
    return min(_squares(), key=lambda spec: (abs(spec.nbytes - count), -spec.nbytes))


def _numberings(spec: ImageSpec) -> list[list[Numbers]]:
    """Return the numbers of all pixels, counted from 0 or 1, by position or by row and column."""
    return [
        list(product(*(range(first, first + count) for count in counts)))
        for counts in ((spec.nbytes,), spec.shape)
        for first in (0, 1)
    ]


def _instead(columns: int, spec: ImageSpec) -> str:
    """Return that columns should be as many as an image has pixels, and what they could be."""
    other = _sizes(columns)
    seen = f", as images of {other} have," if other else ""
    return f"{seen} instead of {spec.nbytes:,}, for images of {spec}"


def _problem(found: list[tuple[Numbers, str]], spec: ImageSpec) -> str:
    """Return what is wrong with the numbers of these columns."""
    text = f"{len(found):,} columns of pixels such as '{found[0][1]}'"
    text += _instead(len(found), spec)
    if len(found) != spec.nbytes and _sizes(len(found)):
        return text
    counts = Counter(numbers for numbers, _ in found)
    repeated = [name for numbers, name in found if counts[numbers] > 1]
    expected = min(_numberings(spec), key=lambda each: len({*each} ^ {*counts}))
    missing = sorted({*expected} - {*counts})
    if repeated:
        text += f"; repeated: {', '.join(repeated[:SHOWN_NUMBERS])}"
    if missing:
        shown = ("x".join(map(str, numbers)) for numbers in missing[:SHOWN_NUMBERS])
        text += f"; missing: {', '.join(shown)}"
    return text


def read_head(file: IO[bytes]) -> bytes:
    """Return the first bytes of a file, with the header if it is a CSV of pixels."""
    head = file.read(HEAD_BYTES)
    return head if b"\n" in head else head + file.read(LONG_HEAD_BYTES - len(head))


def read_layout(head: bytes, spec: ImageSpec | None = None) -> Layout | None:
    """Return the columns of the CSV of pixels that begins so; `None` if it is something else.

    Files without a header have a column for each pixel, or the label before them.

    Args:
        head: See `read_head`.
        spec: Images that the file must have; by default square ones of any size.

    Raises:
        ValueError: As `pixel_columns`.
    """
    encoding = detect_encoding(head)
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    line, end, rest = text.partition("\n")
    delimiter = detect_delimiter(line)
    names = split_line(line.rstrip("\r"), delimiter) if end else []
    if len(names) < MIN_COLUMNS:
        return None
    are_values = all(name.strip().isdecimal() for name in names) and len({*names}) < len(names)
    if has_header := not are_values:
        spec = spec or _square(len(_numbered(names)))
        indices = {name: index for index, name in enumerate(names)}
        pixels = [indices[name] for name in pixel_columns(names, spec)]
    else:
        spec = spec or _square(len(names) - 1)
        if len(names) not in (spec.nbytes, spec.nbytes + 1):
            count = len(names) if _sizes(len(names)) else len(names) - 1
            problem = _instead(count, spec)
            raise ValueError(f"{len(names):,} columns without names{problem}")
        labels = ["label"] * (len(names) - spec.nbytes)
        names = [*labels, *(f"pixel{number}" for number in range(spec.nbytes))]
        pixels = list(range(len(labels), len(names)))
        if labels:
            _check_label_is_first([line, *rest.split("\n")[:-1]], delimiter)
    return Layout(encoding, delimiter, names, pixels, has_header, spec) if pixels else None


def _check_label_is_first(lines: Iterable[str], delimiter: str) -> None:
    """Raise `ValueError` if the first column looks like background and the last like labels."""
    rows = [line.rstrip("\r").split(delimiter) for line in lines]
    first, last = ({row[index].strip() for row in rows} for index in (0, -1))
    if first == {"0"} and len(last) > 1:
        raise ValueError(
            "the label may be the first or the last column; add a header with 'label' and numbered "
            "pixels"
        )


def read_rows(file: IO[bytes], layout: Layout, columns: Sequence[str] = ()) -> Iterator[Rows]:
    """Yield the rows of a CSV of pixels with some of its columns.

    Raises:
        ValueError, pyarrow.ArrowException: If the file is damaged.
    """
    ragged: list[int] = []  # numbers of rows of a wrong length that have not been yielded
    max_ragged = MAX_RAGGED_BYTES // len(layout.pixels)
    start = 0

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.number - 1 - layout.has_header)
        return "skip" if len(ragged) < max_ragged else "error"

    for batch in _open_csv(file, layout, columns, skip):
        numbers = np.arange(start, start + batch.num_rows + len(ragged))
        positions = np.setdiff1d(numbers, ragged)[: batch.num_rows] - start
        if batch.num_rows:
            rows = _decode(batch, positions, len(layout.pixels), columns)
            start += len(rows.pixels)
            ragged[:] = [number for number in ragged if number >= start]
            yield rows
    if ragged:
        nothing = pa.nulls(len(ragged), pa.string())
        pixels = np.zeros((len(ragged), len(layout.pixels)), np.uint8)
        table = pa.table([nothing for _ in columns], list(columns))
        yield Rows(pixels, np.zeros(len(ragged), bool), table)


def as_pixels(column: pa.Array) -> tuple[UInt8Array, NDArray[np.bool_]]:
    """Return numbers as pixels, and whether they are."""
    values = column.to_numpy(zero_copy_only=False)  # a null is not a number then
    if values.dtype == np.uint8:
        return values, np.ones(len(values), bool)
    with np.errstate(invalid="ignore"):  # of infinity and what is not a number
        are_pixels = (values >= 0) & (values <= 255) & (values == np.floor(values))
        return np.where(are_pixels, values, 0).astype(np.uint8), are_pixels


def _open_csv(
    file: IO[bytes],
    layout: Layout,
    columns: Sequence[str],
    skip: Callable[[pyarrow.csv.InvalidRow], str],
) -> Iterator[pa.RecordBatch]:
    """Open a CSV; yield batches of the pixels in their order and the other columns, all as text."""
    indices = [*layout.pixels, *map(layout.names.index, columns)]
    return pyarrow.csv.open_csv(  # type: ignore[no-any-return]
        file,
        pyarrow.csv.ReadOptions(
            use_threads=False,  # then, invalid rows have numbers
            block_size=BLOCK_BYTES,
            column_names=[str(index) for index in range(len(layout.names))],
            skip_rows=int(layout.has_header),
            encoding="utf8" if layout.encoding == "utf-8-sig" else layout.encoding,
        ),
        pyarrow.csv.ParseOptions(delimiter=layout.delimiter, invalid_row_handler=skip),
        pyarrow.csv.ConvertOptions(
            column_types={str(index): pa.string() for index in indices},
            include_columns=[str(index) for index in indices],
            strings_can_be_null=False,
        ),
    )


def _decode(
    batch: pa.RecordBatch, positions: NDArray[np.int64], count: int, columns: Sequence[str]
) -> Rows:
    """Return rows of `count` pixels, of which the batch has those at the positions."""
    total = int(positions[-1]) + 1
    texts = pa.concat_arrays(batch.columns[:count])
    values, are_pixels = as_pixels(_as_numbers(texts))
    pixels = np.zeros((total, count), np.uint8)
    pixels[positions] = values.reshape(count, -1).T
    are_valid = np.zeros(total, bool)
    are_valid[positions] = are_pixels.reshape(count, -1).all(axis=0)
    rows = np.full(total, -1)
    rows[positions] = np.arange(len(positions))
    taken = pa.array(rows, mask=rows < 0)
    others = [batch.column(count + index).take(taken) for index in range(len(columns))]
    return Rows(pixels, are_valid, pa.table(others, list(columns)))


def _as_numbers(texts: pa.Array) -> pa.Array:
    """Parse texts as numbers; other texts become null."""
    try:
        return texts.cast(pa.int32())
    except pa.ArrowInvalid:
        texts = pc.utf8_trim_whitespace(texts)
        are_numbers = pc.match_substring_regex(texts, INTEGER)
        return pc.if_else(are_numbers, texts, pa.scalar(None, pa.string())).cast(pa.float64())
