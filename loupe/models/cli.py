"""`loupe models`: what is in the store, which is better, and what is in production."""

import os
import sys
import webbrowser
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.old_errors.core import NotConfirmed, ReportNotFound
from loupe.terminal import (
    Column,
    console,
    notices,
    print_sections,
    print_table,
    warnings_as_notices,
)

if TYPE_CHECKING:
    from loupe.models.promotion_log import Promotion
    from loupe.models.store import StoredModel

app = typer.Typer(help="List, show, compare, promote and delete the models in the store.")
Tag = Annotated[
    str,
    typer.Argument(
        help="NAME:VERSION, NAME:production, NAME:latest, or NAME for its production version."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="As JSON, with the whole card.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List, show, compare, promote and delete the models in the store. Alone it lists them."""
    context.with_resource(warnings_as_notices())
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the models in the store, newest first."""
    from loupe.models.comparison import Shown, ShownList
    from loupe.models.store import labels, list_models

    found, labelled = list_models(), labels()
    if as_json:
        shown = ShownList([Shown.of(model, labelled.get(model.tag, [])) for model in found])
        console.print_json(shown.model_dump_json())
    elif found:
        print_table(_columns(found, labelled), "See: loupe models show TAG")
    else:
        console.print(
            "The model store is empty. Train a model: loupe train --dataset fashion-mnist"
        )


@app.command()
def show(tag: Tag, as_json: Json = False) -> None:
    """Show all that is known about a model."""
    from loupe.models.comparison import Shown, described
    from loupe.models.store import REPORT_FILE, find_model, labels

    model = find_model(tag)
    shown = Shown.of(model, labels().get(model.tag, []))
    if as_json:
        console.print_json(shown.model_dump_json())
        return
    _print_heading(model, shown.labels)
    report = model.folder / REPORT_FILE
    about = {
        "folder": str(model.folder),
        "report": str(report) if report.is_file() else "none",
        "size": _megabytes(shown.size_bytes),
        "created": _local(model.card.created, "%Y-%m-%d %H:%M:%S"),
    }
    print_sections({"": about, **described(model.card)})


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A model, as NAME:VERSION.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Show the figures of two models side by side, and which is better."""
    from loupe.models.comparison import compared
    from loupe.models.store import find_model, labels

    first, second, labelled = find_model(a), find_model(b), labels()
    for letter, model in (("A", first), ("B", second)):
        _print_heading(model, labelled.get(model.tag, []), f"{letter}  ")
    if first.card.figures.test_digest != second.card.figures.test_digest:
        console.print(
            "The test sets differ: accuracy, loss and calibration error cannot be compared."
        )
    for columns in compared(first, second):
        if columns[0].cells:
            console.print()
            print_table(columns)


@app.command()
def promote(
    tag: Tag,
    force: Annotated[
        bool, typer.Option("--force", help="Even if it is not better, or not comparable.")
    ] = False,
) -> None:
    """Put a model into production, if it is better on the same test set than the one that is there."""
    from loupe.models import promotion as gate
    from loupe.models.store import find_model

    promotion = gate.promote(tag, force=force)
    if promotion is None:
        console.print(f"{find_model(tag).tag} is in production already.", highlight=False)
        return
    _print_moved(promotion)
    if promotion.forced:
        notices.print(
            "[yellow]It is not known to be better than the one before; --force put it there.[/]"
        )


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="The model's name, without a version.")],
) -> None:
    """Put into production what was there before; again, and it is the one before that."""
    from loupe.models import promotion as gate

    back = gate.rollback(name)
    for tag in back.deleted:
        notices.print(
            f"[yellow]Passed over {tag}: it is not in the store any more.[/]", highlight=False
        )
    _print_moved(back.promotion)


@app.command()
def delete(
    tag: Annotated[str, typer.Argument(help="NAME:VERSION")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a model that is not in production, with all its files."""
    from loupe.models import promotion as gate
    from loupe.models.store import full_tag

    full = (
        full_tag(tag) if ":" in tag else tag
    )  # what a shortened version means is told before it is gone
    if not yes:
        _ask(f"delete {full}")
    console.print(f"deleted [bold]{gate.delete(full)}[/]", highlight=False)


@app.command()
def log(name: Annotated[str | None, typer.Argument(help="Of this model only.")] = None) -> None:
    """Show which versions were put into production, newest first."""
    from loupe.models.promotion_log import read
    from loupe.models.store import promotions_path

    history = [
        promotion
        for promotion in reversed(read(promotions_path()))
        if name in (None, promotion.name)
    ]
    if not history:
        console.print("Nothing has been promoted yet. Promote a model: loupe models promote TAG")
        return
    columns = [
        Column("time", [_local(promotion.time) for promotion in history]),
        Column("name", [promotion.name for promotion in history]),
        Column(
            "what",
            ["forced" if promotion.forced else promotion.kind for promotion in history],
            rank=1,
        ),
        Column("to", [promotion.to_version for promotion in history]),
        Column("from", [promotion.from_version or "–" for promotion in history], rank=2),
        Column("accuracy", [_change(promotion, "accuracy") for promotion in history]),
        Column("loss", [_change(promotion, "loss") for promotion in history], rank=4),
        Column(
            "calibration error",
            [_change(promotion, "calibration_error") for promotion in history],
            rank=3,
        ),
    ]
    print_table(columns, f"All of it: {promotions_path()}")


@app.command()
def report(
    tag: Tag,
    open_: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="In a browser. Default: where there is a screen."),
    ] = None,
) -> None:
    """Say where a model's report is, and open it."""
    from loupe.models.store import REPORT_FILE, find_model

    model = find_model(tag)
    path = model.folder / REPORT_FILE
    if not path.is_file():
        raise ReportNotFound(model.tag, REPORT_FILE)
    console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if (_has_screen() if open_ is None else open_) and not webbrowser.open(path.as_uri()):
        notices.print("[yellow]No browser could be opened; open the file yourself.[/]")


def _columns(models: list["StoredModel"], labelled: dict[str, list[str]]) -> list[Column]:
    cards = [model.card for model in models]
    return [
        Column("tag", [model.tag for model in models]),
        Column("label", [" ".join(labelled.get(model.tag, [])) for model in models]),
        Column("data set", [card.dataset for card in cards], rank=6),
        Column(
            "architecture", [str(card.config.get("architecture", "–")) for card in cards], rank=2
        ),
        Column("classes", [str(len(card.class_names)) for card in cards], rank=4, justify="right"),
        Column(
            "test\naccuracy", [f"{card.figures.accuracy:.4f}" for card in cards], justify="right"
        ),
        Column(
            "calibration\nerror",
            [f"{card.figures.calibration_error:.4f}" for card in cards],
            rank=1,
            justify="right",
        ),
        Column("size", [_megabytes(model.size_bytes) for model in models], rank=5, justify="right"),
        Column("created", [_local(card.created) for card in cards], rank=3),
    ]


def _print_heading(model: "StoredModel", labels: list[str], before: str = "") -> None:
    console.print(
        f"{before}[bold]{model.tag}[/]  {' '.join(labels)}".rstrip(),
        highlight=False,
        soft_wrap=True,
    )


def _print_moved(promotion: "Promotion") -> None:
    before = f" (before: {promotion.from_version})" if promotion.from_version else ""
    console.print(
        f"[bold]{promotion.name}:{promotion.to_version}[/] is in production{before}",
        highlight=False,
    )
    figures = f"test accuracy {_change(promotion, 'accuracy')}, calibration error {_change(promotion, 'calibration_error')}"
    console.print(figures, highlight=False)


def _change(promotion: "Promotion", figure: str) -> str:
    before, now = promotion.from_figures, f"{getattr(promotion.to_figures, figure):.4f}"
    return now if before is None else f"{getattr(before, figure):.4f} → {now}"


def _ask(action: str) -> None:
    if not sys.stdin.isatty():
        raise NotConfirmed(action)
    if not typer.confirm(f"{action[0].upper()}{action[1:]}?"):
        console.print("Nothing was done.")
        raise typer.Exit(1)


def _has_screen() -> bool:
    """Whether somebody sits here who can see a browser."""
    return console.is_terminal and (
        sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    )


def _local(time: datetime, form: str = "%Y-%m-%d %H:%M") -> str:
    return time.astimezone().strftime(form)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
