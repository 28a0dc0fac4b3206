"""Requests about jobs: what to score, and how."""

import os
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, Json, StringConstraints

from loupe.errors import Forbidden, InvalidSource
from loupe.files import is_below
from loupe.images.selection import MAX_SUFFIX, MAX_SUFFIXES, Reason
from loupe.jobs import ScoringRequest
from loupe.results import Format
from loupe.settings import Settings
from service.http.validation import shown

MAX_PATH = 2**16  # characters, far more than systems take; resolving more takes seconds
MAX_COUNT = 20_000_000  # skipped files, as many as a source may have records

Counts: TypeAlias = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=MAX_SUFFIX)],
        Annotated[int, Field(ge=1, le=MAX_COUNT)],
    ],
    Field(min_length=1, max_length=MAX_SUFFIXES + 1),
]
"""Numbers of files by suffix."""


class SourceRequest(ScoringRequest):
    """A request to score a source that workers can read."""

    source: str = Field(min_length=1, max_length=MAX_PATH)


class UploadRequest(ScoringRequest):
    """A request to score an upload.

    Attributes:
        skipped: JSON: files of a folder that the client did not send, by reason and suffix.
    """

    skipped: Json[dict[Reason, Counts]] = Field(default_factory=dict)


class NoParameters(BaseModel):
    """The empty query of a request with JSON."""

    model_config = ConfigDict(extra="forbid")


class BacklogRequest(BaseModel):
    """The number of steps for which one worker is wanted."""

    model_config = ConfigDict(extra="forbid")

    steps_per_worker: int = Field(default=8, ge=1, le=1_000_000)


class PageRequest(BaseModel):
    """A page of a list of jobs.

    Attributes:
        after: `next` of the page before; the first page by default.
        limit: Maximum number of jobs.
    """

    model_config = ConfigDict(extra="forbid")

    after: str | None = None
    limit: int = Field(default=100, ge=1, le=1000)


class ResultsRequest(BaseModel):
    """The format of downloaded results; that of the job by default."""

    model_config = ConfigDict(extra="forbid")

    format: Format | None = None


class PictureRequest(BaseModel):
    """The picture of a row, by its id."""

    model_config = ConfigDict(extra="forbid")

    row: str = Field(min_length=1, max_length=MAX_PATH)


def find_source(source: str, settings: Settings) -> tuple[Path, tuple[str, ...]]:
    """Return the real path of the file or folder that a caller names, and those of the roots.

    Nothing outside the roots is looked at, so errors do not reveal whether a path exists.

    Raises:
        Forbidden: If it is outside of all roots, or where the service keeps its own files.
        InvalidSource: If there is nothing.
    """
    path = os.path.normpath(source)
    given_roots = [str(root) for root in settings.source_roots]
    roots = [os.path.realpath(root) for root in given_roots]
    if "\0" in path or not any(is_below(path, root) for root in (*roots, *given_roots)):
        raise _forbidden(source)
    found, home = os.path.realpath(path), os.path.realpath(settings.home)
    if not any(is_below(found, root) for root in roots):
        raise _forbidden(source)
    if is_below(found, home) or is_below(home, found):
        raise _forbidden(source)
    if not os.path.exists(found):  # noqa: PTH110 - pathlib raises for a name that is too long
        raise InvalidSource(f"{shown(source)} is not a file or folder.")
    return Path(found), tuple(roots)


def _forbidden(source: str) -> Forbidden:
    return Forbidden(
        f"{shown(source)} is not an absolute path below a folder that jobs may read "
        "(LOUPE_JOB_ROOTS). Upload the images instead: send them as the body."
    )
