"""`results.csv`: one line per training of a sweep."""

import csv
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, fields
from pathlib import Path

from pydantic import TypeAdapter

from loupe.errors import Conflict, NotWritable
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


def read_results(folder: Path, sweep: Sweep) -> tuple[Result, ...]:
    """Read the results of a sweep from its folder, without a last line that a crash truncated.

    Raises:
        Conflict: If a line does not belong to this sweep.
    """
    file = folder / RESULTS_FILE
    content = file.read_bytes() if file.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()
    results = []
    for number, cells in enumerate(csv.reader(lines), 1):
        try:
            if number > 1:
                results.append(_decode(sweep, cells))
            elif tuple(cells) != columns(sweep):
                raise ValueError("other columns")
        except (ValueError, KeyError) as error:
            raise Conflict(
                f"Line {number} of '{file}' does not belong to this sweep: {','.join(cells)}. "
                "Delete the line to repeat its training, or choose another --out.",
                code="sweep_damaged",
            ) from error
    return tuple(results)


def _decode(sweep: Sweep, line: list[str]) -> Result:
    cells = dict(zip(columns(sweep), line, strict=True))
    values = {
        name: {as_text(name, value): value for value in several}[cells[name]]
        for name, several in sweep.values.items()
    }
    setting, seed = sweep.setting(values), int(cells["seed"])
    if cells["error"]:
        return Result(setting, seed, None, cells["error"])
    scores = TypeAdapter(Scores).validate_python({name: cells[name] or None for name in SCORES})
    return Result(setting, seed, scores)


@contextmanager
def translate_write_errors(path: Path) -> Iterator[None]:
    """Raise `NotWritable` if the block cannot write."""
    try:
        yield
    except OSError as error:
        raise NotWritable(
            f"'{path}' cannot be written: {error}. The same command continues."
        ) from error
