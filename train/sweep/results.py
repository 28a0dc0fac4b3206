"""`results.csv`: one line per training of a sweep."""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, fields
from pathlib import Path

from loupe.errors import Conflict
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
    if not file.exists():
        return ()
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1].decode("utf-8", "replace")
    if not whole:
        return ()
    lines = csv.reader(whole.splitlines())
    if tuple(next(lines)) != columns(sweep):
        raise Conflict(
            f"'{file}' has other columns than this sweep: {', '.join(columns(sweep))}. "
            "Choose another folder.",
            code="sweep_damaged",
        )
    results = []
    for number, line in enumerate(lines, 2):
        try:
            results.append(_decode(sweep, line))
        except (ValueError, KeyError) as error:
            raise Conflict(
                f"Line {number} of '{file}' is not a training of this sweep: {','.join(line)}. "
                "Delete the line; its training is then repeated.",
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
    validation = cells["validation_accuracy"]
    scores = Scores(
        train_accuracy=float(cells["train_accuracy"]),
        validation_accuracy=float(validation) if validation else None,
        test_accuracy=float(cells["test_accuracy"]),
        test_loss=float(cells["test_loss"]),
        trained_epochs=int(cells["trained_epochs"]),
        seconds=float(cells["seconds"]),
    )
    return Result(setting, seed, scores)
