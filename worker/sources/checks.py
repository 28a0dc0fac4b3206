"""Checks that sources share, and the errors for what they find."""

from collections.abc import Sequence

from loupe.errors import InvalidSource, SourceChanged
from loupe.jobs import ScoringOptions

# In error messages.
MAX_LISTED_COLUMNS, MAX_LISTED_CHARACTERS, MAX_REASON_CHARACTERS = 12, 80, 300


def check_unchanged(source: object, planned: str, now: str) -> None:
    """Raise `SourceChanged` if two versions of a source differ."""
    if planned != now:
        raise SourceChanged(
            f"'{source}' has changed since the job began. Score it again into a new folder."
        )


def check_columns(source: object, options: ScoringOptions, columns: Sequence[str] | None) -> None:
    """Raise `InvalidSource` if a source without columns, or with these, lacks a requested one."""
    wanted = [options.id, *options.columns, options.image_column if columns is None else None]
    for column in filter(None, wanted):
        if column not in (columns or ()):
            known = "only tables, manifests, .npz and WebDataset archives have columns"
            if columns is not None:
                known = f"it has {listed(columns)}"
            raise InvalidSource(
                f"'{source}' has no column {column!r}: {known}.", code="column_not_found"
            )


def listed(names: Sequence[str]) -> str:
    """Return the first names for an error message, long ones cut."""
    shown = [short(name, MAX_LISTED_CHARACTERS) for name in names[:MAX_LISTED_COLUMNS]]
    return (", ".join(shown) or "none") + (" …" if len(names) > MAX_LISTED_COLUMNS else "")


def short(text: object, limit: int = MAX_REASON_CHARACTERS) -> str:
    """Return a text for an error message, cut if it is long; a source may hold any text."""
    shown = str(text)
    return shown if len(shown) <= limit else f"{shown[:limit]} …"


def damaged(source: str, error: Exception) -> InvalidSource:
    """Return the error for a file that cannot be read as what it seems to be."""
    return InvalidSource(f"The {source} is damaged: {short(error)}.")
