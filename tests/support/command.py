"""The result of a command; the fixture `loupe` runs commands in this process."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Loupe = Callable[..., Ended]
