"""A scorer for other engines: batches of pictures or arrays become the rows of `loupe score`."""

import atexit
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loupe.errors import InvalidPixels, InvalidRequest, InvalidSource, LoupeError
from loupe.images.arrays.shapes import fits, listed, to_batch
from loupe.images.arrays.tables import as_pixels
from loupe.images.formats import File
from loupe.images.pool import DecoderPool
from loupe.images.spec import UInt8Array
from loupe.jobs import ScoringOptions, check_options
from loupe.models.answers import familiarity_unknown
from loupe.models.card import FILE_NAME, ModelCard, digest
from loupe.models.engines.engine import Engine, Outputs, run_size
from loupe.models.engines.loading import load_engine
from loupe.models.store import StoredModel, find_model, model_not_found
from loupe.settings import load_settings
from worker.results import formats
from worker.scoring.engines import MAX_ENGINES, check_card
from worker.sources.collection import Entry
from worker.sources.pictures import Decoder
from worker.sources.source import ColumnTypes, id_type
from worker.sources.tables.rows import NO_ID, id_text

if TYPE_CHECKING:
    import pandas as pd

IMAGE, ID, BYTES = "image", "id", "bytes"
CODE, ERROR = "code", "error"
OF_FILES = ("format", "single", "array")  # options that a scorer does not have
NO_PIXEL = "A batch has a pixel that is no integer in 0..255."
BATCH_PICTURES = 1024  # in a table of `rows`
RUN_IMAGES = 64  # of the engine; a run's layers fit in the cache of one core

Arrays: TypeAlias = Mapping[str, Any]
"""Columns as NumPy arrays or lists, as Ray has them."""


class Scorer:
    """Scores batches in any process. Pickle sends its model's tag or path, and its options.

    A batch is a table of Arrow, a data frame of pandas, or a mapping of arrays, and has a column of
    ids and one of images: picture files, or arrays of pixels of the model's size. The result is of
    the same kind (a table for a mapping), with a row for each image in the same order: the columns
    of `loupe score`, then `code` and `error`, which are null unless the image could not be read.

    The engine runs in one thread, and loads with the first batch of a process.

    Args:
        model: Tag as for `loupe score`, or the path of a model's folder; the version that it means
            now is kept.
        options: Those of `ScoringOptions` that decide on rows: `id`, `image_column`, `top_k`,
            `probabilities`, `threshold`, `min_familiarity`, `escape_formulas`, `labels`, `keep`.

    Attributes:
        tag: Full tag of the model.
        card: Its card.
        options: The options.

    Raises:
        ModelNotFound: If there is no such model.
        InvalidRequest: If an option is unknown, or has an invalid value.
    """

    def __init__(self, model: str | None = None, **options: object) -> None:
        self.options = check_options(ScoringOptions, **options)
        if unused := [name for name in OF_FILES if name in options]:
            raise InvalidRequest(f"A scorer writes no files, so it has no option '{unused[0]}'.")
        found = _find(model or load_settings().default_tag)
        self.tag, self.card = found.tag, found.card
        if self.options.min_familiarity is not None and self.card.familiarity is None:
            raise familiarity_unknown()
        formats.check_kept_columns(self.card.class_names, self.options)
        self._model = found.tag if model is None or not _is_path(model) else str(found.folder)
        self._digest = digest(found.folder / FILE_NAME)

    def __call__(self, batch: Any) -> Any:
        """Score a batch.

        Raises:
            InvalidSource: If a column is missing, or cannot be copied to rows.
            InvalidPixels: If the pixels do not have the size of the model's images.
        """
        known = _names(batch)
        wanted = [self._image, self._id, *self.options.columns]
        if missing := [name for name in wanted if name not in known]:
            raise InvalidSource(
                f"The batch has no column '{missing[0]}'. Its columns: "
                f"{', '.join(known[: formats.MAX_LISTED_COLUMNS])}.",
                code="column_not_found",
            )
        kept = pa.table({name: _arrow(batch[name]) for name in self.options.columns})
        rows = self._score(_images(batch[self._image]), _arrow(batch[self._id]), kept)
        is_frame = not isinstance(batch, pa.Table | pa.RecordBatch | Mapping)
        return to_frame(rows) if is_frame else rows

    def rows(
        self, images: UInt8Array | Iterable[bytes], ids: Iterable[str | int] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the rows of many images, a table for `BATCH_PICTURES` of them at a time.

        Args:
            images: uint8, shape `(n, *shape)` of the model, or picture files.
            ids: One for each image; row numbers by default.

        Raises:
            InvalidPixels: See `__call__`.
        """
        names = None if ids is None else iter(ids)
        kept, start = pa.table({}), 0
        for batch in _cut(images):
            stop = start + len(batch)
            numbers = np.arange(start, stop) if names is None else islice(names, len(batch))
            yield self._score(batch, pa.array(numbers), kept)
            start = stop

    def schema(self, columns: pa.Schema) -> pa.Schema:
        """Return the schema of the rows of batches with these columns."""
        kept = pa.schema([columns.field(name) for name in self.options.columns])
        types = ColumnTypes(id_type(columns.field(self._id).type), kept)
        probabilities = np.empty((0, len(self.card.class_names)), np.float32)
        rows = formats.table([], probabilities, self.card.class_names, self.options, types=types)
        return _with_errors(rows, [], {}, []).schema

    @property
    def _id(self) -> str:
        return self.options.id or ID

    @property
    def _image(self) -> str:
        return self.options.image_column or IMAGE

    def _score(
        self,
        images: UInt8Array | Sequence[bytes | None],
        ids: pa.Array | pa.ChunkedArray,
        kept: pa.Table,
    ) -> pa.Table:
        """Return the rows of images with these ids and kept columns."""
        types = ColumnTypes(id_type(ids.type), kept.schema)
        names: list[Any] = ids.to_pylist()
        if types.id != pa.int64():
            names = list(map(id_text, names))
        engine, decoder = _load(self._model, self._digest)
        if isinstance(images, np.ndarray):
            good, pixels, errors = _take(self._checked(images), names)
        else:
            good, pixels, errors = _decode(decoder, images, names)
        size = run_size(self.card.input, RUN_IMAGES)
        runs = [engine.run(pixels[at : at + size]) for at in range(0, max(len(pixels), 1), size)]
        probabilities, familiarity = Outputs.joined(runs)
        rows = formats.table(
            [names[row] for row in good] if errors else names,
            probabilities,
            self.card.class_names,
            self.options,
            kept.take(pa.array(good, pa.int64())) if errors and kept.num_columns else kept,
            types,
            self.card.input.blank(pixels),
            familiarity,
        )
        return _with_errors(rows, good, errors, names)

    def _checked(self, images: UInt8Array) -> UInt8Array:
        spec = self.card.input
        if images.dtype != np.uint8 or not fits(images.shape, spec):
            raise InvalidPixels(
                f"Images must be uint8 of shape {listed(spec)}, not {images.dtype}, "
                f"shape {images.shape}."
            )
        return to_batch(images, spec)


def to_frame(rows: pa.Table) -> "pd.DataFrame":
    """Return a table as a data frame whose columns keep their types and nulls."""
    import pandas as pd

    return rows.to_pandas(types_mapper=pd.ArrowDtype)


def _take(images: UInt8Array, names: Sequence[Any]) -> "_Read":
    """Return the images whose rows have an id."""
    good = [row for row, name in enumerate(names) if name is not None]
    if len(good) == len(names):
        return _Read(good, images, {})
    missing = [row for row, name in enumerate(names) if name is None]
    return _Read(good, images[good], {row: _no_id() for row in missing})


def _decode(decoder: Decoder, files: Sequence[bytes | None], names: Sequence[Any]) -> "_Read":
    """Decode the picture files of rows."""

    def read(entry: Entry) -> File:
        file: bytes | None = files[entry.location[0]]
        if file is None:
            raise InvalidSource("The row has no picture file.", code="invalid_record")
        return file

    entries = [
        Entry(str(row), [row], NO_ID if name is None else None) for row, name in enumerate(names)
    ]
    found = decoder.records(entries, read)
    errors = {int(row): error for row, error in found.errors}
    return _Read(list(map(int, found.ids)), found.images, errors)


def _no_id() -> LoupeError:
    return InvalidSource(NO_ID, code="invalid_record")


def _with_errors(
    rows: pa.Table, good: Sequence[int], errors: Mapping[int, LoupeError], names: Sequence[Any]
) -> pa.Table:
    """Add the rows of errors at their places, and the columns `code` and `error`."""
    nothing = pa.nulls(len(rows), pa.string())
    whole = rows.append_column(CODE, nothing).append_column(ERROR, nothing)
    if not errors:
        return whole
    found = {
        rows.column_names[0]: [names[row] for row in errors],
        CODE: [error.code for error in errors.values()],
        ERROR: [error.message for error in errors.values()],
    }
    refused = pa.table(
        [
            pa.array(found.get(field.name, [None] * len(errors)), field.type)
            for field in whole.schema
        ],
        schema=whole.schema,
    )
    order = np.argsort([*good, *errors], kind="stable")
    return pa.concat_tables([whole, refused]).take(pa.array(order))


def _cut(images: UInt8Array | Iterable[bytes]) -> Iterator[Any]:
    """Yield batches of images."""
    if isinstance(images, np.ndarray):
        for start in range(0, len(images), BATCH_PICTURES):
            yield images[start : start + BATCH_PICTURES]
        return
    remaining = iter(images)
    while batch := list(islice(remaining, BATCH_PICTURES)):
        yield batch


def _names(batch: Any) -> list[str]:
    """Return the names of a batch's columns."""
    if isinstance(batch, pa.Table | pa.RecordBatch):
        return list(batch.schema.names)
    return list(map(str, batch))  # the keys of a mapping, the columns of a frame


def _arrow(values: Any) -> pa.Array | pa.ChunkedArray:
    """Return a column as Arrow."""
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)


def _images(values: Any) -> UInt8Array | list[bytes | None]:
    """Return a column of picture files as a list, one of pixels as uint8 `(n, …)`."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return _arrow_images(values)
    array = np.asarray(values)
    if array.dtype != object and len(array):
        return array
    if len(array) and isinstance(array[0], np.ndarray | list):
        return _uint8(np.stack(array.tolist()))
    files = [value.get(BYTES) if isinstance(value, dict) else value for value in array.tolist()]
    return [bytes(file) if isinstance(file, bytearray) else file for file in files]


def _arrow_images(column: pa.Array | pa.ChunkedArray) -> UInt8Array | list[bytes | None]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ExtensionArray):  # tensors of Arrow and of Ray
        column = column.storage
    if pa.types.is_struct(column.type):
        column = column.field(BYTES)
    if not pa.types.is_nested(column.type):
        files: list[bytes | None] = column.to_pylist()
        return files
    if column.null_count:
        raise InvalidPixels(NO_PIXEL)
    return _pixels(column.flatten()).reshape(len(column), -1)


def _uint8(images: NDArray[np.generic]) -> UInt8Array:
    """Return images of any integers as uint8; Spark has none smaller than 16 bits."""
    if images.dtype == np.uint8 or images.dtype.kind not in "iu":
        return images.astype(images.dtype, copy=False)
    return _pixels(pa.array(images.ravel())).reshape(images.shape)


def _pixels(column: pa.Array) -> UInt8Array:
    pixels, are_pixels = as_pixels(column)
    if not are_pixels.all():
        raise InvalidPixels(NO_PIXEL)
    return pixels


def _is_path(model: str) -> bool:
    return "/" in model


def _find(model: str | None) -> StoredModel:
    """Return the model of a tag or of a folder's path."""
    if model is None or not _is_path(model):
        return find_model(model)
    folder = Path(model).absolute()
    try:
        card = ModelCard.load(folder)
    except (OSError, ValueError) as error:
        raise model_not_found(model) from error
    return StoredModel(f"{folder.parent.name}:{folder.name}", folder, card)


@lru_cache(MAX_ENGINES)
def _load(model: str, card_digest: str) -> tuple[Engine, Decoder]:
    """Return the engine and the decoder of a model; a process keeps them for all scorers."""
    settings = load_settings()
    found = _find(model)
    check_card(found, card_digest)
    processes = DecoderPool(1, settings.decode_seconds)
    atexit.register(processes.close)
    engine = load_engine(found, settings.engine, threads=1)
    return engine, Decoder(found.card.input, settings.max_image_pixels, processes)


class _Read(NamedTuple):
    """The rows with an image, their images, uint8 `(n, *shape)`, and the errors of the others."""

    good: list[int]
    pixels: UInt8Array
    errors: dict[int, LoupeError]
