"""`loupe train classics`: what well-known tutorials train, trained here."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from loupe.settings import load_settings
from loupe.terminal import console, log_to_stderr

RESULTS_FOLDER = "classics"  # below the data folder


def classics(
    quick: Annotated[
        bool, typer.Option("--quick", help="Minutes instead of hours: fewer epochs and seeds.")
    ] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the four IDX files of MNIST.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Letters of the tutorials to train, as A,C.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the page is written, in Markdown.")] = Path(
        "docs/CLASSICS.md"
    ),
) -> None:
    """Train the models of five tutorials with their settings, and write a page that compares.

    Each row is kept once it is trained: Ctrl-C loses the one in hand, and the same command goes on.
    """
    from dataclasses import replace

    from train.tensorflow import import_tensorflow
    from train.tutorials.classics import PLAN

    whole = replace(PLAN, quick=quick)
    plan = (
        whole
        if only is None
        else whole.only([letter.strip().upper() for letter in only.split(",")])
    )
    log_to_stderr()
    import_tensorflow()
    from train.tutorials import page as classics_page
    from train.tutorials.results import Results
    from train.tutorials.runs import Course, loader

    classics_page.check_writable(out)
    results = Results(load_settings().home / RESULTS_FOLDER)
    Course(plan, results, loader(data_dir), console).run()
    figures = results.load(whole)  # the page has what other runs trained, too
    today = datetime.now(timezone.utc).date()
    classics_page.write(
        out, classics_page.page(whole, figures, classics_page.this_machine(), today)
    )
    console.print(
        "\n" + classics_page.in_short(plan, figures), markup=False, highlight=False, soft_wrap=True
    )
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
