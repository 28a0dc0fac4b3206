"""`loupe train sweep`: the same training with many settings, side by side."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from loupe.images.spec import Look
from loupe.terminal import console, notices
from train.sweep.options import hidden_units, images_per_step, several

if TYPE_CHECKING:
    from train.sweep.sweeps import Plan, Result, Sweep, Value

RECENT = 600.0  # seconds of trainings from which the time left is judged; some take much longer than others

data = partial(typer.Option, rich_help_panel="Data")
tried = partial(
    typer.Option,
    rich_help_panel="What to try: values with commas between, the base first",
    metavar="LIST",
)
fixed = partial(typer.Option, rich_help_panel="The same for all")


def sweep(
    dataset: Annotated[
        str, data(help="fashion-mnist, mnist, digits, digits-8x8, idx:DIR or folder:DIR.")
    ],
    out: Annotated[
        Path, typer.Option(help="New folder for the results, or one with a part of them.")
    ],
    data_dir: Annotated[
        Path | None, data(help="Folder with the data set's four IDX files.")
    ] = None,
    look: Annotated[Look | None, data(help="How your own pictures look: ink or object.")] = None,
    learning_rate: Annotated[
        str | None, tried("--learning-rate", "--lr", help="As 0.001,0.01.")
    ] = None,
    epochs: Annotated[str | None, tried(help="Times every training image is seen.")] = None,
    hidden: Annotated[
        list[str] | None,
        tried(help="Units of each hidden layer, as 32,16; once for each that is to be tried."),
    ] = None,
    optimizer: Annotated[
        str | None, tried(help="sgd, adam, amsgrad, adamw, adagrad, adadelta or rmsprop.")
    ] = None,
    batch_size: Annotated[str | None, tried(help="Images per step, or full.")] = None,
    test_fraction: Annotated[
        str | None,
        tried(help="Share of the images to test with, of a data set that brings no test split."),
    ] = None,
    initializer: Annotated[
        str | None,
        tried(
            help="How kernels begin: glorot-uniform, glorot-normal, he-uniform, he-normal or zeros."
        ),
    ] = None,
    bias: Annotated[str | None, tried(help="What biases begin with.")] = None,
    schedule: Annotated[
        str | None, tried(help="Of the learning rate: constant, cosine or one-cycle.")
    ] = None,
    weight_decay: Annotated[
        str | None, tried(help="Of the kernels, a step, times the learning rate.")
    ] = None,
    architecture: Annotated[
        str,
        fixed(
            help="softmax, mlp-sigmoid, mlp, mlp-512, mlp-small, cnn-small, cnn-classic, cnn or resnet."
        ),
    ] = "cnn",
    validation_fraction: Annotated[
        float | None,
        fixed("--validation", help="Share of the training split to choose by; 0 for none."),
    ] = None,
    patience: Annotated[
        int | None,
        fixed(help="Stop after so many epochs without a better validation accuracy; 0: never."),
    ] = None,
    augmentation: Annotated[
        bool | None, fixed(help="Change the images a little in every epoch.")
    ] = None,
    class_weights: Annotated[
        bool | None, fixed(help="Let images of rare classes count for more.")
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Train every setting so often, with the seeds 0, 1, 2 …")
    ] = 5,
    one_at_a_time: Annotated[
        bool,
        typer.Option(
            "--one-at-a-time", help="Vary each parameter by itself, not all combinations."
        ),
    ] = False,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Let Optuna's sampler pick so many of the combinations."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Trainings at once; they share the cores.", show_default="one per core"
        ),
    ] = None,
) -> None:
    """Train with many settings and compare them; nothing is saved to the store. The same command goes on where it stopped."""
    from train.runs import DataSource
    from train.sweep.sweeps import Sweep

    given = {
        "learning_rate": _numbers("learning rate", learning_rate),
        "epochs": _whole_numbers("epochs", epochs),
        "hidden": _each(hidden_units, hidden),
        "optimizer": _names("optimizer", optimizer),
        "batch_size": _each(
            images_per_step, batch_size.split(",") if batch_size is not None else None
        ),
        "test_fraction": _numbers("test fraction", test_fraction),
        "initializer": _names("initializer", initializer),
        "bias": _numbers("bias", bias),
        "schedule": _names("schedule", schedule),
        "weight_decay": _numbers("weight decay", weight_decay),
        "validation_fraction": _one(validation_fraction),
        "patience": _one(patience),
        "augmentation": _one(augmentation),
        "class_weights": _one(class_weights),
    }
    wanted = Sweep(
        source=DataSource(dataset=dataset, data_dir=data_dir, look=look),
        architecture=architecture,
        values={name: values for name, values in given.items() if values},
        seeds=seeds,
        plan=_plan(one_at_a_time, trials),
        trials=trials or 0,
    )
    _run(wanted, out, jobs)


def _run(sweep: "Sweep", out: Path, jobs: int | None) -> None:
    """Train what is missing, and show what all came to."""
    from loupe.old_errors.train import SweepInterrupted
    from train.sweep import report as sweep_report
    from train.sweep.sweeping import run_sweep, with_epochs
    from train.sweep.sweeps import summarize

    sweep = with_epochs(sweep)
    try:
        with _progress() as watch:
            results = run_sweep(sweep, out, jobs=jobs, watch=watch)
    except SweepInterrupted as interrupted:
        notices.print(f"\n{interrupted.message}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(interrupted.exit_code) from None
    written = sweep_report.write_report(out, sweep, results)
    if sweep.plan == "one-at-a-time":
        for table in sweep_report.one_at_a_time(sweep, results):
            console.print(table)
    console.print(sweep_report.ranking(sweep, summarize(sweep, results)))
    for error in dict.fromkeys(result.error for result in results if result.error):
        notices.print(f"failed: {error}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"→ {', '.join(map(str, written))}", markup=False, highlight=False, soft_wrap=True
    )


@contextmanager
def _progress() -> Iterator["Callable[[Sequence[Result], int], None]"]:
    """A bar on a real terminal; gives what moves it."""
    with Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        speed_estimate_period=RECENT,
    ) as bar:
        task = bar.add_task("", total=None)

        def watch(results: "Sequence[Result]", total: int) -> None:
            bar.update(task, completed=len(results), total=total)

        yield watch


def _plan(one_at_a_time: bool, trials: int | None) -> "Plan":
    from loupe.old_errors.train import InvalidTraining

    if one_at_a_time and trials is not None:
        raise InvalidTraining("--one-at-a-time", "it or --trials", "both")
    return "one-at-a-time" if one_at_a_time else "grid" if trials is None else "trials"


def _numbers(option: str, text: str | None) -> "tuple[Value, ...]":
    return (
        ()
        if text is None
        else several(option, text, float, "numbers with commas between, as 0.001,0.01")
    )


def _whole_numbers(option: str, text: str | None) -> "tuple[Value, ...]":
    return (
        ()
        if text is None
        else several(option, text, int, "whole numbers with commas between, as 10,20")
    )


def _names(option: str, text: str | None) -> "tuple[Value, ...]":
    return () if text is None else several(option, text, str, "names with commas between")


def _each(
    read: "Callable[[str | None], Value | None]", texts: list[str] | None
) -> "tuple[Value, ...]":
    return tuple(value for text in texts or () if (value := read(text.strip())) is not None)


def _one(value: "Value | None") -> "tuple[Value, ...]":
    return () if value is None else (value,)
