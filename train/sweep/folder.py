"""A sweep's folder: `sweep.json`, what was asked for, and `results.csv`, the one truth about what came of it."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

from loupe.old_errors.train import FileNotWritable, InvalidTraining, SweepDamaged, SweepMismatch
from train.sweep.sweeps import Result, Scores, Sweep, Value, as_text

REQUEST_FILE = "sweep.json"
RESULTS_FILE = "results.csv"
SCORES = tuple(field.name for field in fields(Scores))


class SweepFolder:
    """Where the results of one sweep are written, and read when it goes on."""

    def __init__(self, folder: Path, sweep: Sweep) -> None:
        self.folder = folder
        self._sweep = sweep
        self._file = folder / RESULTS_FILE
        self._columns = (*sweep.values, "seed", *SCORES, "error")

    @classmethod
    def open(cls, folder: Path, sweep: Sweep, data: str) -> "SweepFolder":
        """Begin a sweep in a new folder, or go on in its own.

        Args:
            folder: Is made if it is not there.
            sweep: What is to be tried.
            data: Digest of the images; other images make it another sweep.

        Raises:
            SweepMismatch: If another sweep was begun there.
            InvalidTraining: If there is anything else in it.
            FileNotWritable: If it cannot be made.
        """
        request = {**sweep.model_dump(mode="json"), "data": data}
        file = folder / REQUEST_FILE
        try:
            if file.is_file():
                _check_same(folder, _read(file), request)
            elif folder.is_dir() and any(folder.iterdir()):
                raise InvalidTraining(
                    "--out", "a new or empty folder, or one with the same sweep", f"'{folder}'"
                )
            else:
                folder.mkdir(parents=True, exist_ok=True)
                temporary = folder / f"{REQUEST_FILE}.part"
                temporary.write_text(json.dumps(request, indent=1) + "\n", encoding="utf-8")
                temporary.replace(file)
        except OSError as error:
            raise FileNotWritable(str(file), str(error)) from error
        return cls(folder, sweep)

    def results(self) -> tuple[Result, ...]:
        """What has been trained, in the order in which it ended. A line that a crash cut short is taken away.

        Raises:
            SweepDamaged: If a line is not one of this sweep's.
        """
        if not self._file.exists():
            return ()
        content = self._file.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(self._file, end)
        whole = content[:end].decode("utf-8", "replace")
        lines = csv.reader(whole.splitlines())
        if whole and tuple(next(lines)) != self._columns:
            raise self._damaged(
                1, f"the columns {', '.join(self._columns)}", "others", "Sweep into another folder."
            )
        return tuple(self._parse(line, number) for number, line in enumerate(lines, 2))

    def append(self, result: Result) -> None:
        """Write down one training; the line is in the file when this returns.

        Raises:
            FileNotWritable: If it cannot be, as when the disk is full.
        """
        settings = [as_text(name, result.setting.value(name)) for name in self._sweep.values]
        scores = astuple(result.scores) if result.scores else (None,) * len(SCORES)
        error = " ".join(result.error.split())  # a line of the file is a training
        line = _line([*settings, result.seed, *scores, error])
        try:
            new = not self._file.exists() or not self._file.stat().st_size
            with self._file.open("a", encoding="utf-8", newline="") as file:
                file.write(_line(self._columns) + line if new else line)
        except OSError as problem:
            raise FileNotWritable(
                str(self._file), f"{problem}; the same command goes on"
            ) from problem

    def _parse(self, line: Sequence[str], number: int) -> Result:
        try:
            cells = dict(zip(self._columns, line, strict=True))
            values = {name: self._value(name, cells[name]) for name in self._sweep.values}
            scores = None if cells["error"] else _scores(cells)
            return Result(self._sweep.setting(values), int(cells["seed"]), scores, cells["error"])
        except (ValueError, KeyError) as error:
            advice = "Take the line away; what it was about is trained again."
            raise self._damaged(
                number, "a training of this sweep", ",".join(line), advice
            ) from error

    def _value(self, name: str, text: str) -> Value:
        return {as_text(name, value): value for value in self._sweep.values[name]}[text]

    def _damaged(self, line: int, expected: str, received: str, advice: str) -> SweepDamaged:
        return SweepDamaged(str(self._file), f"line {line}", expected, received, advice)


def _scores(cells: dict[str, str]) -> Scores:
    validation = cells["validation_accuracy"]
    return Scores(
        train_accuracy=float(cells["train_accuracy"]),
        validation_accuracy=float(validation) if validation else None,
        test_accuracy=float(cells["test_accuracy"]),
        test_loss=float(cells["test_loss"]),
        trained_epochs=int(cells["trained_epochs"]),
        seconds=float(cells["seconds"]),
    )


def _line(cells: Sequence[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_bytes()))
    except ValueError as error:
        raise SweepDamaged(
            str(file), "all", "a JSON object", str(error), "Sweep into another folder."
        ) from error


def _check_same(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    old, new = _flat(there), _flat(asked)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if names:
        raise SweepMismatch(
            str(folder), {name: (_told(old.get(name)), _told(new.get(name))) for name in names}
        )


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    """A request with the parts of its source and its values beside the rest, so that what differs can be named."""
    parts = [request.get("source"), request.get("values")]
    nested = {
        name: value for part in parts if isinstance(part, dict) for name, value in part.items()
    }
    return {
        name: value for name, value in request.items() if name not in ("source", "values")
    } | nested


def _told(value: object) -> str:
    return "nothing" if value is None else json.dumps(value).strip('"')
