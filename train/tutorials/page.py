"""The page on the classics, in Markdown: every figure on it comes from the results it is given."""

import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import tensorflow as tf

from loupe.old_errors.train import FileNotWritable
from loupe.runtime.cores import available_cores
from train.config import FULL_BATCH, TrainConfig
from train.evaluate.verdict import percent
from train.sweep.sweeps import Result as Training
from train.sweep.sweeps import Spread, Sweep, as_text
from train.tutorials.findings import accuracies_of, findings, shown
from train.tutorials.plan import Factor, Plan, Trial
from train.tutorials.results import Figures, Result, Summary, current_versions, summarize

NONE = "–"  # in a cell that has nothing to say
CPU_FACTS = Path("/proc/cpuinfo")  # where Linux tells the processor's name
DECREASES = {"constant": "", "cosine": " along a cosine", "one-cycle": " in one cycle"}

QUICK = """\
> **This was a quick run**, with fewer epochs and seeds than the tutorials have: it shows that everything trains, and its figures are not
> to be compared. The full ones: `loupe train classics`.
"""


@dataclass(frozen=True)
class Machine:
    """What the seconds were measured on."""

    cores: int
    processor: str
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'} of {self.processor}"
        return ", ".join((cores, *self.gpus))


def this_machine() -> Machine:
    """The machine this runs on, as far as it tells."""
    facts = CPU_FACTS.read_text(encoding="utf-8") if CPU_FACTS.is_file() else ""
    names = [
        line.partition(":")[2].strip()
        for line in facts.splitlines()
        if line.startswith("model name")
    ]
    gpus = [
        tf.config.experimental.get_device_details(gpu)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return Machine(
        available_cores(),
        names[0] if names else platform.processor() or platform.machine(),
        tuple(details.get("device_name", "a GPU") for details in gpus),
    )


def check_writable(path: Path) -> None:
    """Make sure of a place for the page before hours are spent.

    Raises:
        FileNotWritable: If there is none.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise FileNotWritable(str(path), str(error)) from error


def write(path: Path, page: str) -> None:
    """Write the page, whole or not at all.

    Raises:
        FileNotWritable: If it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise FileNotWritable(str(path), str(error)) from error


def page(plan: Plan, figures: Figures, machine: Machine, today: date) -> str:
    """The whole page, in Markdown."""
    results = figures.trials
    versions = ", ".join(f"{package} {number}" for package, number in current_versions().items())
    parts = [
        "# The classics\n",
        "The models of tutorials for beginners, trained with the tutorials' own settings, and our default beside them. "
        f"`loupe train classics{' --quick' if plan.quick else ''}` wrote this page on {today:%Y-%m-%d}, on {machine}, with {versions}.\n",
        QUICK if plan.quick else "",
        "## The table\n",
        "Test accuracy in %. A dash is what a tutorial does not tell, or what is not trained yet.\n",
        main_table(plan, results),
        bullets(tutorial_lines(plan)),
        "## What is seen\n",
        bullets(findings(plan, figures)),
        "## How well they are fitted\n",
        fits_table(plan, results),
        "## Our default\n",
        defaults_table(plan, results),
        *_study_parts(plan, figures.study),
    ]
    return "\n".join(part for part in parts if part)


def in_short(plan: Plan, figures: Figures) -> str:
    """What the terminal shows: the table, and what is seen."""
    parts = [
        QUICK if plan.quick else "",
        main_table(plan, figures.trials),
        bullets(findings(plan, figures)),
    ]
    return "\n".join(part for part in parts if part)


def main_table(plan: Plan, results: Mapping[Trial, Result]) -> str:
    """Every model: the tutorial's figure, ours with its settings, ours with our default, and the seconds of an epoch."""
    defaults = {
        tutorial.letter: _default(plan, tutorial.default, results) for tutorial in plan.tutorials
    }
    rows = []
    for classic in shown(plan, results):
        row = plan.of_classic(classic)
        summary = summarize(row, results)
        rows.append(
            (
                classic.tutorial,
                classic.model,
                settings(row.trials[0].config),
                in_percent(classic.reported),
                accuracy(summary),
                accuracy(defaults[classic.tutorial]),
                "–".join(f"{duration:g}" for duration in classic.reported_seconds or ()) or NONE,
                in_seconds(summary),
            )
        )
    return table(
        (
            "tutorial",
            "model",
            "settings",
            "its figure",
            "ours, its settings",
            "ours, our default",
            "its seconds per epoch",
            "our seconds",
        ),
        rows,
    )


def fits_table(plan: Plan, results: Mapping[Trial, Result]) -> str:
    """Every model on both splits, and the verdict."""
    rows = []
    for classic in shown(plan, results):
        summary = summarize(plan.of_classic(classic), results)
        rows.append(
            (
                classic.tutorial,
                classic.model,
                NONE if summary is None else str(summary.first.epochs),
                in_percent(summary.train_accuracy if summary else None),
                in_percent(summary.accuracy if summary else None),
                NONE if summary is None else f"{summary.loss:.3f}",
                NONE if classic.reported_loss is None else f"{classic.reported_loss:.3f}",
                NONE if summary is None else summary.first.fit,
            )
        )
    return table(
        ("tutorial", "model", "epochs", "train", "test", "test loss", "its test loss", "verdict"),
        rows,
    )


def defaults_table(plan: Plan, results: Mapping[Trial, Result]) -> str:
    """Our default on every data set."""
    rows = []
    for default in plan.defaults:
        row = plan.of_default(default)
        summary = summarize(row, results)
        rows.append(
            (
                default.trial.dataset,
                settings(row.trials[0].config),
                accuracy(summary),
                NONE if summary is None else f"{summary.first.calibration_error:.4f}",
                in_seconds(summary),
                NONE if summary is None else f"{summary.first.seconds / 60:.1f}",
            )
        )
    return table(
        (
            "data set",
            "settings",
            "test accuracy",
            "calibration error",
            "seconds per epoch",
            "minutes in all",
        ),
        rows,
    )


def factor_table(sweep: Sweep, factor: Factor, study: Sequence[Training]) -> str:
    """The values of one setting: the tutorial's single run, and ours over the seeds."""
    rows = []
    for value, reported in factor.reported:
        accuracies = accuracies_of(sweep, factor, value, study)
        spread = Spread.of(accuracies) if accuracies else None
        rows.append(
            (
                as_text(factor.setting, value),
                in_percent(reported),
                in_percent(spread.mean if spread else None),
                in_percent(spread.deviation if spread else None),
                in_percent(min(accuracies, default=None)),
                in_percent(max(accuracies, default=None)),
            )
        )
    return table((factor.name, "its single run", "ours, mean", "spread", "lowest", "highest"), rows)


def tutorial_lines(plan: Plan) -> Iterator[str]:
    """What the letters mean."""
    return (f"{tutorial.letter}: {tutorial.title}" for tutorial in plan.tutorials)


def settings(config: TrainConfig) -> str:
    """A training's settings in words."""
    batches = (
        "all images at once"
        if config.batch_size == FULL_BATCH
        else f"batches of {config.batch_size}"
    )
    most = f", at most; stops after {config.patience} that are no better" if config.patience else ""
    words = [
        f"{config.optimizer} {config.learning_rate:g}{DECREASES[config.schedule]}",
        batches,
        f"{config.epochs:,} epoch{'' if config.epochs == 1 else 's'}{most}",
    ]
    words += [f"weight decay {config.weight_decay:g}"] if config.weight_decay else []
    words += (
        [f"{percent(config.validation_fraction, 0)} held back"]
        if config.validation_fraction
        else []
    )
    words += ["augmentation"] if config.augmentation else []
    return "; ".join(words)


def accuracy(summary: Summary | None) -> str:
    """A test accuracy in percent, with its spread where there is one."""
    if summary is None:
        return NONE
    spread = "" if summary.spread is None else f" ± {summary.spread * 100:.2f}"
    return f"{summary.accuracy * 100:.2f}{spread}"


def in_percent(share: float | None) -> str:
    """A share, 0..1, as a number of percent."""
    return NONE if share is None else f"{share * 100:.2f}"


def in_seconds(summary: Summary | None) -> str:
    """Seconds per epoch, to two digits."""
    if summary is None:
        return NONE
    duration = summary.seconds_per_epoch
    return f"{duration:.1f}" if duration >= 1 else f"{duration:.2g}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned for those who read the text."""
    lines = [headings, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    padded.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(padded) + "\n"


def bullets(sentences: Iterable[str]) -> str:
    """A list in Markdown."""
    return "".join(f"- {sentence}\n" for sentence in sentences)


def _default(plan: Plan, dataset: str, results: Mapping[Trial, Result]) -> Summary | None:
    found = next((default for default in plan.defaults if default.trial.dataset == dataset), None)
    return summarize(plan.of_default(found), results) if found else None


def _study_parts(plan: Plan, study: Sequence[Training]) -> Iterator[str]:
    sweep = plan.sweep
    if plan.study is None or sweep is None:
        return
    yield "## One setting at a time\n"
    yield (
        f"Test accuracy in %: the tutorial's single run, and ours with {sweep.seeds} seeds, each of which also splits the images anew. "
        "The spread is the standard deviation. All settings but the one in the first column are those of the tutorial's base.\n"
    )
    for factor in plan.study.factors:
        yield f"### {plan.study.tutorial}: {factor.name}\n"
        yield factor_table(sweep, factor, study)
