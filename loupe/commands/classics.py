"""`loupe train classics`: what well-known tutorials train, trained here."""

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from loupe.settings import load_settings
from loupe.terminal import console, log_to_stderr

RESULTS_FILE = "classics.jsonl"  # below the data folder


def classics(
    quick: Annotated[bool, typer.Option("--quick", help="Minutes instead of hours: fewer epochs and seeds.")] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the four IDX files of MNIST.")] = None,
    only: Annotated[str | None, typer.Option(help="Letters of the tutorials to train, as A,C.")] = None,
    out: Annotated[Path, typer.Option(help="Where the page is written, in Markdown.")] = Path("docs/CLASSICS.md"),
) -> None:
    """Train the models of five tutorials with their settings, and write a page that compares.

    Each row is kept once it is trained: Ctrl-C loses the one in hand, and the same command goes on.
    """
    from dataclasses import replace

    from train.classics import PLAN
    from train.tensorflow import import_tensorflow

    whole = replace(PLAN, quick=quick)
    plan = whole if only is None else whole.only([letter.strip().upper() for letter in only.split(",")])
    log_to_stderr()
    import_tensorflow()
    from train import classics_page
    from train.classics_results import Results
    from train.classics_runs import Course, loader

    classics_page.check_writable(out)
    results = Course(plan, Results(load_settings().home / RESULTS_FILE), loader(data_dir), console).run()
    today = datetime.now(timezone.utc).date()
    # The page has what was trained in other runs, too; the terminal what was asked for.
    classics_page.write(out, classics_page.page(whole, results, classics_page.this_machine(), today))
    told = [classics_page.QUICK] if quick else []
    told += [classics_page.main_table(plan, results), classics_page.bullets(classics_page.findings(plan, results))]
    console.print("\n" + "\n".join(told), markup=False, highlight=False, soft_wrap=True)
    console.print(f"written to {out}", highlight=False, soft_wrap=True)
