"""Bulk-scoring jobs as the command line, the service, its client and the worker know them."""

import re
import shlex
from pathlib import PurePosixPath
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from loupe.errors import InvalidRequest, InvalidUsage
from loupe.images.selection import SkippedFiles
from loupe.results import Format

JobState = Literal[
    "queued", "planning", "running", "finishing", "cancelling", "done", "failed", "cancelled"
]
ENDED: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # the highest first

FOLDER_LABELS = "folder"
LABEL_COLUMN = "column:"
MAX_TOP_K = 999_999_999  # larger than any number of classes
MAX_KEPT = 1000  # columns
ERROR_LIMIT = re.compile("[0-9]{1,12}|100%|[0-9]{1,2}([.][0-9]{1,6})?%")  # a number, or a share


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def _split_names(names: object) -> object:
    """Return names as a tuple; on the command line and in a query, commas separate them."""
    if isinstance(names, str):
        return tuple(name.strip() for name in names.split(",") if name.strip())
    return tuple(names) if isinstance(names, list) else names


class ScoringOptions(_Model):
    """Options of a job, which every program offers.

    Attributes:
        format: Format of the prediction files.
        top_k: Labels per row, the most probable first.
        probabilities: Whether rows contain the probabilities of all classes.
        threshold: Minimum confidence for a label; `None` labels every row.
        min_familiarity: Minimum familiarity for a label; `None` labels every row.
        single: Whether the parts are merged into one file at the end.
        escape_formulas: Whether texts that a spreadsheet takes for formulas begin with `'`.
        labels: Where the true labels are: `folder` (the name of the folder that contains the
            image) or `column:NAME`; `None` if they are unknown.
        keep: Columns of the source that are copied to the rows.
        id: Column of the source with the ids; `None` takes `id` if the source has it.
        image_column: Column with the pictures or their paths; `None` takes the usual names.
        array: Array of an `.npz` to score; `None` takes the only one that holds images.
    """

    format: Format = "parquet"
    top_k: int = Field(default=1, ge=1, le=MAX_TOP_K)
    probabilities: bool = True
    threshold: float | None = Field(default=None, ge=0, le=1)
    min_familiarity: float | None = Field(default=None, ge=0, le=1)
    single: bool = False
    escape_formulas: bool = False
    labels: str | None = None
    keep: Annotated[tuple[str, ...], BeforeValidator(_split_names)] = Field(
        default=(), max_length=MAX_KEPT
    )
    id: str | None = None
    image_column: str | None = None
    array: str | None = None

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: str | None) -> str | None:
        column = (labels or "").removeprefix(LABEL_COLUMN)
        if labels in (None, FOLDER_LABELS) or column not in ("", labels):
            return labels
        raise PydanticCustomError("labels", "Input should be 'folder' or 'column:NAME'")

    @property
    def label_column(self) -> str | None:
        """The source's column of true labels."""
        if self.labels is None or self.labels == FOLDER_LABELS:
            return None
        return self.labels.removeprefix(LABEL_COLUMN)

    @property
    def columns(self) -> tuple[str, ...]:
        """The source's columns that are read besides images and ids."""
        label_columns = [self.label_column] if self.label_column else []
        return tuple(dict.fromkeys([*self.keep, *label_columns]))


class ScoringRequest(ScoringOptions):
    """Options of a job that is submitted over HTTP.

    Attributes:
        model: Tag of the model; `None` takes the service's default.
        max_errors: Number of images, or share with a %, that may be errors; the job fails if more
            are. `None` has no limit.
    """

    model: str | None = None
    max_errors: str | None = None

    @field_validator("max_errors", mode="before")
    @classmethod
    def _check_max_errors(cls, limit: object) -> object:
        text = str(limit) if type(limit) is int else limit
        if isinstance(text, str) and not ERROR_LIMIT.fullmatch(text):
            raise PydanticCustomError("limit", "Input should be a number, or a share such as '5%'")
        return text


DEFAULT_OPTIONS = ScoringOptions()


def file_format(output: str) -> Format | None:
    """Return the format of an output file, from its suffix; `None` for a folder."""
    suffix = PurePosixPath(output).suffix.lower().removeprefix(".")
    return next((kind for kind in get_args(Format) if kind == suffix), None)


def score_command(source: str) -> str:
    """Return the command that scores a source into a CSV file, which is never inside it."""
    name = re.sub(r"[^\w-]", "", PurePosixPath(source).name.partition(".")[0]) or "../results"
    return f"loupe score {shlex.quote(source)} --out {name}.csv"


def folder_of(output: str, options: ScoringOptions) -> str:
    """Return the folder of a job's files; next to the output if that is one file."""
    is_file = options.single and file_format(output) == options.format
    return f"{output}.job" if is_file else output


class ScoringJob(BaseModel):
    """A job at one moment, as every program reports it; unknown fields are ignored.

    Attributes:
        id: Hexadecimal digits.
        state: `queued → planning → running → finishing → done`, or `failed`, or
            `cancelling → cancelled`.
        model: Full tag of the model.
        source: Path or URL of the images, as the workers see it.
        total: Number of files or rows in the source; `None` before they are counted. Of a job that
            is done, it is the sum of `done`, `failed` and `skipped`.
        progress: `done + failed + skipped` as a share of `total`, 0..1; 1 if `total` is 0, `None`
            before it is known.
        done: Images scored so far.
        failed: Images that could not be read so far.
        skipped: Files that are not scored: hidden ones, those that are not pictures, and others.
        skipped_files: Their numbers by reason and suffix.
        created: Seconds since the epoch, as are `started` and `finished`.
        eta_seconds: Estimated time until the job is done, if it is running.
        output: Folder of the results, as the workers see it.
        error: Why the job failed.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    state: JobState
    model: str
    source: str
    total: int | None
    progress: float | None = None
    done: int
    failed: int
    skipped: int = 0
    skipped_files: SkippedFiles = Field(default_factory=dict)
    created: float
    started: float | None
    finished: float | None
    eta_seconds: float | None
    output: str
    error: str | None

    def __hash__(self) -> int:
        return hash((self.id, self.state, self.done, self.failed))

    @property
    def ended(self) -> bool:
        """True if the job has reached a final state."""
        return self.state in ENDED


M = TypeVar("M", bound=BaseModel)


def read_flags(kind: type[M], **options: object) -> M:
    """Return the command-line options as a `kind`.

    Raises:
        InvalidUsage: If one has a value that it cannot have.
    """
    try:
        return check_options(kind, **options)
    except InvalidRequest as error:
        raise InvalidUsage(error.message) from error


def check_options(kind: type[M], **options: object) -> M:
    """Return the options as a `kind`.

    Raises:
        InvalidRequest: If one has a value that it cannot have.
    """
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name, value = problem["loc"][0], problem["input"]
        raise InvalidRequest(f"Option '{name}' cannot be {value!r}: {problem['msg']}.") from error
