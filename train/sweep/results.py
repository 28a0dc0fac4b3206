"""`results.csv`: one line per training of a sweep."""

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from loupe.errors import NotWritable
from train.sweep.sweeps import Result, Scores, Sweep, as_text

RESULTS_FILE = "results.csv"
SCORES = tuple(field.name for field in fields(Scores))


def columns(sweep: Sweep) -> tuple[str, ...]:
    """Return the names of the columns: values, seed, scores, error."""
    return (*sweep.values, "seed", *SCORES, "error")


def encode(sweep: Sweep, results: Iterable[Result]) -> str:
    """Write results as CSV lines, without the header."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for result in results:
        values = [as_text(name, result.setting.value(name)) for name in sweep.values]
        scores = astuple(result.scores) if result.scores else (None,) * len(SCORES)
        error = " ".join(result.error.split())  # one training is one line
        writer.writerow([*values, result.seed, *scores, error])
    return text.getvalue()


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Raise `NotWritable` if the block cannot write."""
    try:
        yield
    except OSError as error:
        raise NotWritable(
            f"'{path}' cannot be written: {error}. The same command continues."
        ) from error
