"""`loupe train classics`: trains the models of well-known tutorials."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from loupe.logs import log_to_stderr
from loupe.settings import load_settings
from loupe.terminal import console

RESULTS_FOLDER = "classics"  # in the data folder


def classics(
    quick: Annotated[
        bool, typer.Option("--quick", help="Train fewer epochs and seeds: minutes, not hours.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the four IDX files of MNIST.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Letters of the tutorials to train, as A,C.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Markdown file for the page.")] = Path(
        "docs/CLASSICS.md"
    ),
) -> None:
    """Train the models of five tutorials with their settings, and write a page that compares them.

    Every training is kept: after Ctrl-C, the same command continues.
    """
    from train.locks import locked
    from train.sweep.study import translate_write_errors
    from train.tensorflow import import_tensorflow
    from train.tutorials.plan import load_plan

    whole = load_plan(quick=quick)
    plan = whole
    if only is not None:
        plan = whole.only([letter.strip().upper() for letter in only.split(",")])
    log_to_stderr()
    import_tensorflow()
    from train.tutorials import page
    from train.tutorials.results import Results
    from train.tutorials.runs import loader, train_plan

    page.check_writable(out)
    folder = load_settings().home / RESULTS_FOLDER
    with translate_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", f"trains the classics in '{folder}'", "classics_running"):
        results = Results(folder, plan)
        train_plan(plan, results, loader(data_dir), console)
    today = datetime.now(UTC).date()
    # The page shows results of earlier runs, too.
    page.write(out, page.page(Results(folder, whole), page.this_machine(), today))
    console.print()
    for line in page.in_short(results).splitlines():
        console.print(line)
    console.print(f"page: {out}")
