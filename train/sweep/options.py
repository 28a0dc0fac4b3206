"""What several subcommands read the same way from the text of an option."""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def hidden_units(text: str | None) -> tuple[int, ...] | None:
    """The units of each layer in `128,64`.

    Raises:
        InvalidTraining: If they are no whole numbers.
    """
    return (
        None
        if text is None
        else several("hidden", text, int, "whole numbers with commas between, as 128,64")
    )


def images_per_step(text: str | None) -> int | None:
    """Images per step, or `FULL_BATCH`.

    Raises:
        InvalidTraining: If it is neither a number above 0 nor `full`.
    """
    from loupe.old_errors.train import InvalidTraining
    from train.config import FULL_BATCH

    if text is None:
        return None
    if text == "full":
        return FULL_BATCH
    if text.isdecimal() and int(text):
        return int(text)
    raise InvalidTraining("batch size", "at least 1 image, or 'full'", text)


def several(option: str, text: str, read: Callable[[str], T], expected: str) -> tuple[T, ...]:
    """What a list with commas holds.

    Raises:
        InvalidTraining: If a part of it cannot be read.
    """
    from loupe.old_errors.train import InvalidTraining

    try:
        return tuple(read(part.strip()) for part in text.split(","))
    except ValueError:
        raise InvalidTraining(option, expected, text or "nothing") from None
