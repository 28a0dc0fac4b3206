"""The steps that made an image from a picture, for people who ask what the model saw."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

from loupe.images.spec import UInt8Array

StepName = Literal[
    "blank",
    "centred",
    "cropped",
    "cut_to_sheet",
    "frames_removed",
    "inverted",
    "light_evened",
    "lines_removed",
    "padded",
    "resized",
    "smoothed",
    "specks_removed",
    "strokes_thickened",
    "strokes_thinned",
]


@dataclass(frozen=True)
class Step:
    """A change on the way from a picture to the image of a model.

    Attributes:
        step: What was done, for programs.
        text: The same in words, with figures.
    """

    step: StepName
    text: str


_noted: ContextVar[dict[StepName, Step] | None] = ContextVar("noted", default=None)


def note(step: StepName, text: str, *values: object) -> None:
    """Record a step if a recording is active; a later one of the same name replaces it.

    `text` has a pair of braces for each value, and is formatted only for a recording.
    """
    noted = _noted.get()
    if noted is not None:
        noted.pop(step, None)
        noted[step] = Step(step, text.format(*values))


def note_crop(width: float, height: float, part: str) -> None:
    """Record that only fractions of the picture's width and height are left."""
    percent = 100 * width, 100 * height
    note("cropped", "cropped to {}: {:.0f} % of the width, {:.0f} % of the height", part, *percent)


def note_size(picture: UInt8Array, height: int, width: int) -> None:
    """Record that a picture, `(height, width, …)`, gets another size in pixels."""
    if picture.shape[:2] != (height, width):
        note("resized", "resized to {} × {} pixels", height, width)


def is_recording() -> bool:
    """Return whether a recording is active, and figures are worth computing."""
    return _noted.get() is not None


@contextmanager
def recording(steps: list[Step]) -> Iterator[None]:
    """Append the steps of the block to a list."""
    noted: dict[StepName, Step] = {}
    token = _noted.set(noted)
    try:
        yield
    finally:
        _noted.reset(token)
        steps += noted.values()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
