"""A folder of pictures or, if it has none, of Parquet files."""

from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import TypeVar

from loupe.errors import InvalidRequest
from loupe.files import ReadableFolders
from loupe.images import folder
from loupe.images.selection import Skipped, is_hidden
from loupe.images.spec import UInt8Array
from loupe.jobs import FOLDER_LABELS, ScoringOptions
from worker.queue.steps import Shard
from worker.sources.checks import check_columns
from worker.sources.pictures import Decoder, PictureSource
from worker.sources.source import BatchReader, ColumnTypes, ImageSource, NoPictures, ShardPlan
from worker.sources.tables.parquet import ROW_COUNTS, TableSource
from worker.storage import AnyPath

T = TypeVar("T")


class FolderSource:
    """The pictures below a folder or, without any, the rows of its Parquet files.

    Columns are requested of Parquet files only.
    """

    def __init__(
        self,
        path: AnyPath,
        pictures: PictureSource,
        decoder: Decoder,
        options: ScoringOptions,
        folders: ReadableFolders | None = None,
    ) -> None:
        self._path = path
        self._pictures = pictures
        self._decoder = decoder
        self._options = options
        self._folders = folders

    def check(self) -> None:
        """See `ImageSource.check`."""
        self._use(lambda source: source.check())

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        return self._use(lambda source: source.plan(shard_images, index))

    def column_types(self, index: Path) -> ColumnTypes:
        """See `ImageSource.column_types`."""
        return self._planned(index).column_types(index)

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        return self._planned(index).batches(shard, batch_size, index, revision)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        return self._planned(index).record_id(shard, position, index)

    def previews(self, ids: Container[str], index: Path) -> dict[str, UInt8Array]:
        """See `ImageSource.previews`."""
        return self._planned(index).previews(ids, index)

    def _use(self, use: Callable[[ImageSource], T]) -> T:
        """Use the pictures, or the tables if there are no pictures or columns are requested."""
        options = self._options
        error: NoPictures | None = None
        if not (options.id or options.columns or options.image_column):
            try:
                return use(self._pictures)
            except NoPictures as raised:
                error = raised
        if tables := self._tables():
            return use(tables)
        check_columns(self._path, options, None)
        assert error is not None
        raise error

    def _planned(self, index: Path) -> ImageSource:
        """Return what the plan has found."""
        tables = self._tables() if (index / ROW_COUNTS).exists() else None
        return tables or self._pictures

    def _tables(self) -> TableSource | None:
        """Return the Parquet files, if there are any; count the others as skipped."""
        skipped = Skipped()
        files: list[AnyPath] = []
        for name in self._names(skipped):
            if name.lower().endswith(".parquet"):
                files.append(self._path / name)
            else:
                skipped.add("not_a_table", name)
        if files and self._options.labels == FOLDER_LABELS:
            raise InvalidRequest(f"The rows of '{self._path}' are in no folders of labels.")
        if not files:
            return None
        return TableSource(
            self._path, files, self._decoder, self._options, self._folders, skipped.files
        )

    def _names(self, skipped: Skipped) -> Iterator[str]:
        """Yield the paths of visible files in their order."""
        if isinstance(self._path, Path):
            yield from folder.files(self._path, skipped, folders=self._folders)
            return
        for name in sorted(self._path.find()):
            if is_hidden(name):
                skipped.add("hidden", name)
            else:
                yield name
