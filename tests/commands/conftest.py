"""The command line in the tests' own process, where TensorFlow is imported once and not for every command."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from loupe.cli import main


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


Loupe = Callable[..., Ended]


@pytest.fixture
def loupe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Loupe:
    """`loupe …`, 80 characters wide."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["loupe", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        words = capsys.readouterr()
        return Ended(int(ended.value.code or 0), words.out, words.err)

    return run
