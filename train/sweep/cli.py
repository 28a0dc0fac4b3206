"""`loupe train sweep`: trains with many settings and compares them."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.errors import Interrupted, InvalidUsage
from loupe.terminal import console, notices, progress_bar
from train.options import (
    DATASETS,
    Colour,
    DataDir,
    OwnLook,
    PhotoFit,
    Size,
    data,
    hyperparameter,
    with_options,
)

if TYPE_CHECKING:
    from train.sweep.sweeps import Sweep, Value

ESTIMATE_SECONDS = 600.0  # look this far back for the time left; trainings differ in length
LISTS = (
    "learning_rate",
    "epochs",
    "hidden",
    "optimizer",
    "batch_size",
    "test_fraction",
    "initializer",
    "bias",
    "schedule",
    "weight_decay",
)
SINGLE_VALUES = ("validation_fraction", "patience", "augmentation", "class_weights")
LIST_PANEL = (
    "Values to try, the base first; separated by commas, except --hidden: one use per value"
)
FIXED_PANEL = "The same for all trainings"

values = partial(hyperparameter, panel=LIST_PANEL, metavar="LIST")


@with_options(
    *(values(name, kind=list[str] if name == "hidden" else str) for name in LISTS),
    *(hyperparameter(name, FIXED_PANEL) for name in ("architecture", *SINGLE_VALUES)),
)
def sweep(
    dataset: Annotated[str, data(help=f"digits-8x8, {DATASETS}")],
    out: Annotated[
        Path, typer.Option(help="Folder for the results: a new one, or one to continue.")
    ],
    data_dir: DataDir = None,
    look: OwnLook = None,
    size: Size = None,
    colour: Colour = False,
    fit: PhotoFit = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings per setting, with the seeds 0, 1, 2 …")
    ] = 5,
    one_at_a_time: Annotated[
        bool,
        typer.Option("--one-at-a-time", help="Vary one parameter at a time, not all combinations."),
    ] = False,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Let Optuna's sampler choose this many of the combinations."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Parallel trainings, which share the cores.", show_default="one per core"
        ),
    ] = None,
    **hyperparameters: bool | int | float | str | list[str] | None,
) -> None:
    """Train with many settings and compare them; the same command resumes. Saves no model."""
    from train.data.source import DataSource
    from train.sweep.sweeps import Sweep

    if one_at_a_time and trials is not None:
        raise InvalidUsage(
            "--one-at-a-time and --trials exclude each other.", code="invalid_training"
        )
    request = Sweep(
        source=DataSource.of(
            dataset=dataset, data_dir=data_dir, look=look, size=size, colour=colour, fit=fit
        ),
        architecture=str(hyperparameters["architecture"]),
        values={
            name: _values(name, given)
            for name in (*LISTS, *SINGLE_VALUES)
            if (given := hyperparameters[name]) is not None and given != []
        },
        seeds=seeds,
        plan="one-at-a-time" if one_at_a_time else "grid" if trials is None else "trials",
        trials=trials or 0,
    )
    _run(request, out, jobs)


def _values(name: str, given: bool | int | float | str | list[str]) -> "tuple[Value, ...]":
    """Split a list at its commas; each use of `--hidden` is one value."""
    if isinstance(given, str) and name in LISTS:
        return tuple(text.strip() for text in given.split(","))
    return tuple(given) if isinstance(given, list) else (given,)


def _run(sweep: "Sweep", out: Path, jobs: int | None) -> None:
    """Train what is missing, write the report, and print the tables."""
    from train.sweep import report
    from train.sweep.sweeping import run_sweep, with_epochs
    from train.sweep.sweeps import summarize

    sweep = with_epochs(sweep)
    try:
        with progress_bar(speed_estimate_seconds=ESTIMATE_SECONDS) as bar:
            task = bar.add_task("training", total=None)
            results = run_sweep(
                sweep,
                out,
                jobs=jobs,
                watch=lambda done, total: bar.update(task, completed=done, total=total),
            )
    except Interrupted as interrupted:
        notices.print()
        notices.print(interrupted.message)
        raise typer.Exit(interrupted.exit_code) from None
    written = report.write_report(out, sweep, results)
    if sweep.plan == "one-at-a-time":
        report.print_one_at_a_time(sweep, results)
    report.print_ranking(sweep, summarize(sweep, results))
    for error in dict.fromkeys(result.error for result in results if result.error):
        notices.print(f"failed: {error}")
    console.print(f"→ {', '.join(map(str, written))}")
