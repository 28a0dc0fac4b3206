"""The page on the classics, in Markdown; all its figures come from the results."""

import platform
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tensorflow as tf
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from loupe.files import write_atomically
from loupe.runtime.cores import available_cores
from train.config import FULL_BATCH, TrainConfig
from train.evaluate.verdict import percent
from train.sweep.study import translate_write_errors
from train.sweep.sweeps import Result, Spread, Value, as_text
from train.tutorials.plan import Factor, TutorialPlan
from train.tutorials.results import Results, TrainedRow, current_versions

MAX_DEVIATIONS = 2  # a single run further from the mean is hardly chance
CPU_FACTS = Path("/proc/cpuinfo")
SCHEDULES = {"constant": "", "cosine": " along a cosine", "one-cycle": " in one cycle"}
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)


@dataclass(frozen=True)
class ValueRow:
    """One value of a setting: the tutorial's single run, and our accuracies over the seeds.

    Attributes:
        name: The setting and its value.
        spread: Of our accuracies; `None` until they are known.
        near: True if chance explains the distance of the tutorial's run from our mean.
    """

    name: str
    value: str
    reported: float
    accuracies: Sequence[float]
    spread: Spread | None
    near: bool


def this_machine() -> str:
    """Describe the cores, the processor and the GPUs of this machine."""
    facts = CPU_FACTS.read_text(encoding="utf-8") if CPU_FACTS.is_file() else ""
    names = re.findall(r"^model name\s*:\s*(.+)", facts, re.MULTILINE)
    processor = names[0] if names else platform.processor() or platform.machine()
    cores = available_cores()
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "a GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join((f"{cores} core{'' if cores == 1 else 's'} of {processor}", *gpus))


def check_writable(path: Path) -> None:
    """Raise `NotWritable` for a path that cannot be written, before hours of training."""
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def write(path: Path, page: str) -> None:
    """Write the page; if that fails, an older page stays and `NotWritable` is raised."""
    with translate_write_errors(path):
        write_atomically(path, page)


def page(results: Results, machine: str, today: date) -> str:
    """Return the page."""
    versions = ", ".join(f"{package} {number}" for package, number in current_versions().items())
    facts = {"machine": machine, "today": today.isoformat(), "versions": versions}
    return _render(results, short=False, **facts)


def in_short(results: Results) -> str:
    """Return the main table and the findings, for the terminal."""
    return _render(results, short=True)


def _render(results: Results, **facts: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(),  # not for Markdown
    )
    environment.filters |= {
        "accuracy": _accuracy,
        "microseconds": _microseconds,
        "percent": percent,
        "seconds": _seconds,
        "settings": _settings,
    }
    plan, study = results.plan, results.study()
    classics = [
        (plan.row(each), results.row(each))
        for each in plan.classics
        if not each.if_missed or results.missed(each.if_missed)
    ]
    defaults = [(plan.row(each), results.row(each)) for each in plan.defaults]
    by_dataset = {row.trials[0].dataset: trained for row, trained in defaults}
    factors = _factors(plan, study)
    done = [results.row(row.model) is not None for row in plan.rows()]
    if plan.sweep:
        done.append(len(study) == plan.sweep.trainings)
    text = environment.get_template("page.md.jinja").render(
        facts,
        plan=plan,
        study=study,
        classics=classics,
        trained=[trained for _, trained in classics if trained],
        defaults=defaults,
        default_of={each.letter: by_dataset.get(each.default) for each in plan.tutorials},
        factors=factors,
        repeated=[row for _, rows in factors for row in rows if len(row.accuracies) > 1],
        done=done,
        max_deviations=MAX_DEVIATIONS,
    )
    return TABLE.sub(lambda table: _align(table[0]), text)


def _factors(plan: TutorialPlan, study: Sequence[Result]) -> list[tuple[Factor, list[ValueRow]]]:
    """Return the table rows of each setting that the study varies."""
    sweep = plan.sweep
    if plan.study is None or sweep is None:
        return []

    def row(factor: Factor, value: Value, reported: float) -> ValueRow:
        setting, text = sweep.setting({factor.setting: value}), as_text(factor.setting, value)
        results = [result for result in study if result.setting == setting]
        done = len(results) == sweep.seeds
        accuracies = [each.scores.test_accuracy for each in results if done and each.scores]
        spread = Spread.of(accuracies) if accuracies else None
        near = spread and abs(reported - spread.mean) <= MAX_DEVIATIONS * spread.deviation
        return ValueRow(f"{factor.name} {text}", text, reported, accuracies, spread, bool(near))

    return [
        (factor, [row(factor, value, reported) for value, reported in factor.reported])
        for factor in plan.study.factors
    ]


def _align(table: str) -> str:
    """Pad the cells of a Markdown table."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(
            cell.ljust(width, "-" if cell == "-" else " ")
            for cell, width in zip(row, widths, strict=True)
        )
        for row in rows
    ]
    return "".join(f"| {line} |\n" for line in lines)


def _settings(config: TrainConfig) -> str:
    """Describe a training's settings."""
    full = config.batch_size == FULL_BATCH
    epochs = f"{config.epochs:,} epoch{'' if config.epochs == 1 else 's'}"
    parts = [
        f"{config.optimizer} {config.learning_rate:g}{SCHEDULES[config.schedule]}",
        "full batches" if full else f"batches of {config.batch_size}",
        f"at most {epochs}, patience {config.patience}" if config.patience else epochs,
        f"weight decay {config.weight_decay:g}" if config.weight_decay else "",
        f"{percent(config.validation_fraction, 0)} for validation"
        if config.validation_fraction
        else "",
        "augmentation" if config.augmentation else "",
    ]
    return "; ".join(part for part in parts if part)


def _accuracy(row: TrainedRow | None) -> str:
    """Format a test accuracy in percent, with the standard deviation of several seeds."""
    if row is None:
        return "–"
    spread = f" ± {100 * row.accuracy.deviation:.2f}" if len(row.results) > 1 else ""
    return f"{100 * row.accuracy.mean:.2f}{spread}"


def _seconds(row: TrainedRow | None) -> str:
    """Format the seconds per epoch with two digits."""
    if row is None:
        return "–"
    seconds = row.seconds_per_epoch
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2g}"


def _microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds >= 1e-5 else f"{seconds * 1e6:.1f} µs"
