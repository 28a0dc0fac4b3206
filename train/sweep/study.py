"""A sweep's folder: the request, Optuna's study of the settings, and `results.csv`."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, fields
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from loupe.errors import Conflict, InvalidUsage, NotWritable
from loupe.files import write_atomically
from train.config import Setting
from train.locks import locked
from train.sweep.sweeps import Result, Scores, Sweep, as_text

REQUEST_FILE = "sweep.json"
STUDY_FILE = "study.journal"
RESULTS_FILE = "results.csv"
STUDY_NAME = "sweep"
SCORES = tuple(field.name for field in fields(Scores))
MAX_REPEATS = 20  # draws of known settings before an untried one is picked at random


class Training(NamedTuple):
    """A setting and a seed to train it with."""

    setting: Setting
    seed: int


class SweepStudy:
    """The settings of a sweep as the trials of an Optuna study.

    A trial's user attributes hold the scores or the error of its trainings, by seed. The trial is
    complete once it has all seeds; its value is the mean validation accuracy, where a failed
    training counts as 0.
    """

    def __init__(self, file: Path, sweep: Sweep) -> None:
        self.sweep = sweep
        self._file = file
        self._values = {
            name: {as_text(name, value): value for value in sweep.values[name]}
            for name in sweep.varied
        }
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(list(values)) for name, values in self._values.items()
        }
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._storage = JournalStorage(JournalFileBackend(str(file)))
        self._study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=self._storage,
            direction="maximize",
            load_if_exists=True,
        )
        self._settings = sweep.settings()
        self._started = {  # numbers of the trials
            self._setting(trial.params): trial.number
            for trial in self._trials()
            # A crash of an older version left trials that are failed or have no parameters.
            if trial.state in (TrialState.RUNNING, TrialState.COMPLETE)
            and trial.params.keys() == self._values.keys()
        }
        for number in self._started.values():
            self._complete(number)  # a crash can come between a trial's last result and its value

    def results(self) -> tuple[Result, ...]:
        """Return the results of all trainings, by setting and seed."""
        return tuple(
            Result(setting, seed, None, outcomes[seed]["error"])
            if "error" in outcomes[seed]
            else Result(setting, seed, Scores(**outcomes[seed]))
            for setting, outcomes in self._outcomes()
            for seed in sorted(outcomes)
        )

    def unfinished(self) -> list[Training]:
        """Return the trainings that are missing from settings of an interrupted run."""
        return [
            Training(setting, seed)
            for setting, outcomes in self._outcomes()
            for seed in range(self.sweep.seeds)
            if seed not in outcomes
        ]

    def start_next(self) -> list[Training]:
        """Start the next setting, and return its trainings; none if there is no setting left.

        The trial is added rather than asked for: Optuna has no sampler that varies one parameter at
        a time, and `ask` writes in several steps, so that a crash can leave a part of a trial.
        """
        if len(self._started) * self.sweep.seeds >= self.sweep.trainings:
            return []
        untried = [each for each in self._settings if each not in self._started]
        setting = self._draw(untried) if self.sweep.plan == "trials" else untried[0]
        params = {name: as_text(name, getattr(setting, name)) for name in self._values}
        with translate_write_errors(self._file):
            self._study.add_trial(
                create_trial(
                    state=TrialState.RUNNING, params=params, distributions=self._distributions
                )
            )
        self._started[setting] = self._trials()[-1].number
        return [Training(setting, seed) for seed in range(self.sweep.seeds)]

    def record(self, result: Result) -> None:
        """Store a result in the study and in `results.csv`, or raise `NotWritable`."""
        number = self._started[result.setting]
        outcome = asdict(result.scores) if result.scores else {"error": result.error}
        study_id = self._storage.get_study_id_from_name(STUDY_NAME)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(study_id, number)
        with translate_write_errors(self._file):
            self._storage.set_trial_user_attr(trial_id, str(result.seed), outcome)
            self._complete(number)
            with (self._file.parent / RESULTS_FILE).open("a", encoding="utf-8") as file:
                file.write(csv_lines([_row(self.sweep, result)]))

    def _draw(self, untried: Sequence[Setting]) -> Setting:
        """Pick an untried setting by Optuna's sampler, which sees the completed trials alone."""
        seed = len(self._started)
        scratch = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
        )
        scratch.add_trials(self._study.get_trials(states=(TrialState.COMPLETE,)))
        for _ in range(MAX_REPEATS):
            setting = self._setting(scratch.ask(self._distributions).params)
            if setting in untried:
                return setting
        return untried[int(np.random.default_rng(seed).integers(len(untried)))]

    def _complete(self, number: int) -> None:
        """Give a running trial its value if it has all seeds."""
        trial = self._trials()[number]
        if trial.state == TrialState.RUNNING and len(trial.user_attrs) == self.sweep.seeds:
            accuracies = [each.get("validation_accuracy") for each in trial.user_attrs.values()]
            self._study.tell(number, fmean(accuracy or 0.0 for accuracy in accuracies))

    def _outcomes(self) -> list[tuple[Setting, dict[int, dict[str, Any]]]]:
        """Return the settings that were started, with the outcomes of their trainings by seed."""
        trials = self._trials()
        return [
            (setting, {int(seed): each for seed, each in trials[number].user_attrs.items()})
            for setting, number in self._started.items()
        ]

    def _setting(self, params: Mapping[str, str]) -> Setting:
        return self.sweep.setting({name: self._values[name][text] for name, text in params.items()})

    def _trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)


@contextmanager
def open_study(folder: Path, sweep: Sweep, images: Mapping[str, str]) -> Iterator[SweepStudy]:
    """Start a sweep in a new folder, or continue the one that the folder holds.

    `results.csv` is written from the study.

    Args:
        folder: Created if it does not exist.
        sweep: The request.
        images: `Dataset.fingerprint`; other images make another sweep.

    Raises:
        InvalidUsage: If the folder holds another sweep, or anything else.
        Conflict: If another process runs this sweep, or a file is damaged.
        NotWritable: If the folder cannot be written.
    """
    file, table = folder / STUDY_FILE, folder / RESULTS_FILE
    with translate_write_errors(folder):
        _check_request(folder, {**sweep.model_dump(mode="json"), "images": images})
    with locked(folder / REQUEST_FILE, f"runs the sweep in '{folder}'", "sweep_running"):
        if table.exists() and not file.exists():
            raise InvalidUsage(
                f"'{folder}' has results but no {STUDY_FILE}, so the sweep cannot continue; older "
                "versions did not write one. Delete the folder, or choose another --out.",
                code="sweep_mismatch",
            )
        with translate_write_errors(file):
            study = _load(file, sweep)
            header = (*sweep.values, "seed", *SCORES, "error")
            rows = (_row(sweep, result) for result in study.results())
            write_atomically(table, csv_lines([header, *rows]))
        yield study


def _row(sweep: Sweep, result: Result) -> Sequence[object]:
    """Return a result as a row of `results.csv`."""
    values = [as_text(name, getattr(result.setting, name)) for name in sweep.values]
    scores = astuple(result.scores) if result.scores else (None,) * len(SCORES)
    error = " ".join(result.error.split())  # one training is one line
    return (*values, result.seed, *scores, error)


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Encode rows as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
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


def read_results(folder: Path, sweep: Sweep) -> tuple[Result, ...]:
    """Return the results in a sweep's folder; none if it does not exist."""
    file = folder / STUDY_FILE
    return _load(file, sweep).results() if file.exists() else ()


def _load(file: Path, sweep: Sweep) -> SweepStudy:
    """Open or create a study, without a last line that a crash truncated.

    Optuna cannot read past such a line.
    """
    content = file.read_bytes() if file.exists() else b""
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(file, end)
    try:
        return SweepStudy(file, sweep)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise Conflict(
            f"'{file}' cannot be read: {error}. Delete the folder, or choose another --out.",
            code="sweep_damaged",
        ) from error


def _check_request(folder: Path, request: dict[str, Any]) -> None:
    """Write the request into a new folder, or compare it with the one in the folder."""
    file = folder / REQUEST_FILE
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InvalidUsage(
                f"'{folder}' is neither empty nor the folder of a sweep. Choose another --out.",
                code="invalid_training",
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(request, indent=1) + "\n")
        return
    try:
        old, new = _flat(json.loads(file.read_bytes())), _flat(request)
    except (ValueError, AttributeError, TypeError) as error:
        message = f"'{file}' is not a request for a sweep: {error}. Choose another --out."
        raise Conflict(message, code="sweep_damaged") from error
    differences = [
        f"{name}: {json.dumps(old.get(name))} there, {json.dumps(new.get(name))} now"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise InvalidUsage(
            f"'{folder}' belongs to another sweep: {'; '.join(differences)}. "
            "Repeat the same options to continue that sweep, or choose another --out.",
            code="sweep_mismatch",
        )


def _flat(request: dict[str, Any]) -> dict[str, Any]:
    """Merge the fields of source, values and images into the request."""
    nested = ("source", "values", "images")
    merged = {name: value for name, value in request.items() if name not in nested}
    for name in nested:
        merged |= request.get(name, {})
    return merged
