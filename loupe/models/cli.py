"""`loupe models`: list, show, compare, promote and delete the models in the store."""

import os
import sys
import webbrowser
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, cast

import typer
from typer.core import TyperCommand, TyperGroup

from loupe.cli.commands import Group, find_command, installed
from loupe.errors import InvalidUsage, NotFound
from loupe.models.trial_defaults import CANARY_SHARE, MAX_DISAGREEMENT, MAX_SLOWDOWN, SHADOW_SHARE
from loupe.terminal import (
    Column,
    console,
    notices,
    print_sections,
    print_table,
    styled,
    warnings_as_notices,
)
from loupe.text import one_line

if TYPE_CHECKING:
    from loupe.models.card import Figures
    from loupe.models.promotion_log import PromotedFigures, Promotion
    from loupe.models.store import StoredModel
    from loupe.models.trials import Trial

# Commands in separate files, imported when they run; the training program has the first.
ELSEWHERE = {
    "import": "train.importing.cli:import_",
    "export": "loupe.models.exporting.cli:export",
    "tune": "loupe.cli.tuning:tune",
}


class ModelsGroup(Group):
    """The commands of this file, and those in other files whose program is installed."""

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names of the commands."""
        found = [name for name, target in ELSEWHERE.items() if installed(target)]
        return [*self.commands, *found]

    def get_command(self, ctx: object, cmd_name: str) -> TyperCommand | TyperGroup | None:
        """Return a command, or `None` if the name is unknown."""
        target = ELSEWHERE.get(cmd_name)
        if target and installed(target):
            return find_command(target, f"models {cmd_name}")
        return cast("TyperCommand | None", self.commands.get(cmd_name))


app = typer.Typer(
    cls=ModelsGroup, help="List, show, compare, promote, import, export, tune and delete models."
)
Tag = Annotated[
    str,
    typer.Argument(
        metavar="TAG",
        help="NAME:VERSION, NAME:production, NAME:latest, or NAME for its production version.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON with the whole model card.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List, show, compare, promote and delete the models in the store. The default is to list."""
    context.with_resource(warnings_as_notices())
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the models in the store, newest first."""
    from loupe.models.comparison import shown
    from loupe.models.store import labels, list_models

    found, labelled = list_models(), labels()
    if as_json:
        console.print_json(data=[shown(each, labelled.get(each.tag, [])) for each in found])
    elif found:
        print_table(_columns(found, labelled), "See: loupe models show TAG")
    else:
        console.print("The model store is empty. Train one: loupe train fashion-mnist")


@app.command()
def show(tag: Tag, as_json: Json = False) -> None:
    """Show everything known about a model."""
    from loupe.models.comparison import described, shown
    from loupe.models.store import REPORT_FILE, find_model, labels

    model = find_model(tag)
    its_labels = labels().get(model.tag, [])
    if as_json:
        console.print_json(data=shown(model, its_labels))
        return
    _print_heading(model, its_labels)
    report = model.file(REPORT_FILE)
    about = {
        "folder": str(model.folder),
        "report": str(report or "none"),
        "size": _megabytes(model.size_bytes),
        "created": _local(model.card.created, "%Y-%m-%d %H:%M:%S"),
    }
    print_sections({"": about, **described(model.card)})


@app.command()
def compare(
    tags: Annotated[
        list[str], typer.Argument(metavar="TAG…", help="Two models or more, as NAME:VERSION.")
    ],
) -> None:
    """Show the figures of models side by side, and which is the most accurate."""
    from loupe.models.comparison import LETTERS, answer, compared
    from loupe.models.store import find_model, labels

    if not 2 <= len(tags) <= len(LETTERS):
        raise InvalidUsage(f"Name 2 to {len(LETTERS)} models. To see them all: loupe models")
    models = [find_model(tag) for tag in tags]
    figures, settings = compared(models, labels())
    print_table(figures, "See: loupe models show TAG")
    if settings[0].cells:
        console.print()
        print_table(settings)
    console.print()
    for sentence in answer(models):
        console.print(sentence)


@app.command()
def promote(
    tag: Tag,
    force: Annotated[
        bool, typer.Option("--force", help="Promote it even if it is not better beyond noise.")
    ] = False,
) -> None:
    """Put a model into production if it beats the current one on the same test set.

    A difference that chance can explain is not enough.
    """
    from loupe.models import promotion
    from loupe.models.store import find_model

    promoted = promotion.promote(tag, force=force)
    if promoted is None:
        console.print(f"{find_model(tag).tag} is in production already.")
        return
    _print_moved(promoted)
    if promoted.forced:
        notices.print("It is not known to be better than the one before (--force).", style="yellow")


@app.command()
def rollback(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the model, without a version.")
    ],
) -> None:
    """Put the previous version into production. Repeat it to go back further."""
    from loupe.models import promotion

    rolled_back, deleted = promotion.rollback(name)
    for tag in deleted:
        notices.print(f"Skipped {tag}: it was deleted.", style="yellow")
    _print_moved(rolled_back)


@app.command()
def canary(
    tag: Annotated[
        str | None,
        typer.Argument(metavar="TAG", help="The version to try; without one, list all trials."),
    ] = None,
    share: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the requests, such as 5% or 0.05.",
            show_default=f"{CANARY_SHARE:.0%}, or {SHADOW_SHARE:.0%} with --shadow",
        ),
    ] = None,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Compute and compare, but do not answer.")
    ] = False,
    max_disagreement: Annotated[
        str, typer.Option(metavar="SHARE", help="End it beyond this share of other labels.")
    ] = f"{MAX_DISAGREEMENT:.0%}",
    max_slowdown: Annotated[
        float, typer.Option(help="End it if the engine takes more times as long.")
    ] = MAX_SLOWDOWN,
    stop: Annotated[bool, typer.Option("--stop", help="End the trial of this model.")] = False,
) -> None:
    """Let a version answer a share of the requests, and compare it with the one in production.

    Services end the trial themselves if the version fails, or beyond the limits.
    """
    from loupe.models import trials

    if tag is None:
        _print_trials(trials.all_trials())
    elif stop:
        ended = trials.stop(tag.partition(":")[0])
        console.print(styled("ended the trial of ", (ended.tag, "bold")))
    else:
        part = None if share is None else _share("--share", share)
        most = _share("--max-disagreement", max_disagreement)
        trial = trials.begin(tag, "shadow" if shadow else "canary", part, most, max_slowdown)
        does = "computes" if shadow else "answers"
        console.print(styled((trial.tag, "bold"), f" {does} {_percent(trial.share)} of requests"))
        console.print(f"Look: loupe models canary. End it: loupe models canary {trial.name} --stop")


@app.command()
def delete(
    tag: Annotated[str, typer.Argument(metavar="TAG", help="NAME:VERSION.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Delete a model that is not in production, with all its files."""
    from loupe.models import promotion
    from loupe.models.store import full_tag

    # Show the full version first; the user may have shortened it.
    full = full_tag(tag) if ":" in tag else tag
    if not yes and ":" in tag:  # a name alone is refused below
        _confirm(f"delete {full}")
    console.print(styled("deleted ", (promotion.delete(full), "bold")))


@app.command()
def log(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Show only the model with this name.")
    ] = None,
) -> None:
    """Show which versions were put into production, newest first."""
    from loupe.models.promotion_log import read
    from loupe.models.store import promotions_path

    history = [each for each in reversed(read(promotions_path())) if name in (None, each.name)]
    if not history:
        what = "Nothing" if name is None else f"No version of '{name}'"
        console.print(f"{what} has been promoted yet. Promote a model: loupe models promote TAG")
        return
    errors = [_change(each, "calibration_error") for each in history]
    columns = [
        Column("time", [_local(each.time) for each in history]),
        Column("name", [each.name for each in history]),
        Column("what", ["forced" if each.forced else each.kind for each in history], rank=1),
        Column("to", [each.to_version for each in history]),
        Column("from", [each.from_version or "–" for each in history], rank=2),
        Column("accuracy", [_change(each, "accuracy") for each in history]),
        Column("loss", [_change(each, "loss") for each in history], rank=4),
        Column("calibration error", errors, rank=3),
    ]
    print_table(columns, f"The whole log: {promotions_path()}")


@app.command()
def report(
    tag: Tag,
    open_: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open",
            help="Open it in a browser.",
            show_default="if there is a screen",
        ),
    ] = None,
) -> None:
    """Print the path of a model's report, and open it in a browser."""
    from loupe.models.store import REPORT_FILE, find_model

    model = find_model(tag)
    path = model.file(REPORT_FILE)
    if path is None:
        raise NotFound(
            f"{model.tag} was saved without a report: '{model.folder}' has no {REPORT_FILE}.",
            code="report_not_found",
        )
    console.print(str(path))
    if (_has_screen() if open_ is None else open_) and not webbrowser.open(path.as_uri()):
        notices.print("No browser could be opened. Open the file yourself.", style="yellow")


def _print_trials(found: list["Trial"]) -> None:
    if not found:
        console.print("No version has been tried. Try one: loupe models canary TAG --share 5%")
        return
    disagreed = [
        _percent(trial.disagreed / trial.compared) if trial.compared else "–" for trial in found
    ]
    columns = [
        Column("tag", [trial.tag for trial in found]),
        Column("what", [trial.kind for trial in found]),
        Column("share", [_percent(trial.share) for trial in found], justify="right"),
        Column("state", [trial.reason or "running" for trial in found]),
        Column("disagreed", disagreed, justify="right", rank=3),
        Column("since", [_local(trial.started) for trial in found], rank=2),
        Column("ended", [_local(trial.ended) if trial.ended else "–" for trial in found], rank=1),
    ]
    print_table(columns, "How a running one does: loupe_trial_images in the service's /metrics")


def _share(option: str, text: str) -> float:
    """Return a share that was written as `5%` or `0.05`."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise InvalidUsage(
            f"{option} must be a share such as 5% or 0.05, got {text[:40]!r}."
        ) from None


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _columns(models: list["StoredModel"], labelled: dict[str, list[str]]) -> list[Column]:
    cards = [model.card for model in models]
    architectures = [str(card.config.get("architecture", "–")) for card in cards]
    accuracies = [_figure(card.figures, "accuracy") for card in cards]
    errors = [_figure(card.figures, "calibration_error") for card in cards]
    sizes = [_megabytes(model.size_bytes) for model in models]
    return [
        Column("tag", [model.tag for model in models]),
        Column("label", [" ".join(labelled.get(model.tag, [])) for model in models]),
        Column("data set", [card.dataset for card in cards], rank=6),
        Column("architecture", architectures, rank=2),
        Column("classes", [str(len(card.class_names)) for card in cards], rank=4, justify="right"),
        Column("test\naccuracy", accuracies, justify="right"),
        Column("calibration\nerror", errors, rank=1, justify="right"),
        Column("size", sizes, rank=5, justify="right"),
        Column("created", [_local(card.created) for card in cards], rank=3),
    ]


def _print_heading(model: "StoredModel", labels: list[str], before: str = "") -> None:
    console.print(styled(before, (model.tag, "bold"), *(f"  {label}" for label in labels)))


def _print_moved(promotion: "Promotion") -> None:
    tag = f"{promotion.name}:{promotion.to_version}"
    before = f" (before: {promotion.from_version})" if promotion.from_version else ""
    accuracy, error = _change(promotion, "accuracy"), _change(promotion, "calibration_error")
    console.print(styled((tag, "bold"), f" is in production{before}"))
    console.print(f"test accuracy {accuracy}, calibration error {error}")


def _change(promotion: "Promotion", name: str) -> str:
    before, now = promotion.from_figures, _figure(promotion.to_figures, name)
    return now if before is None else f"{_figure(before, name)} → {now}"


def _figure(figures: "Figures | PromotedFigures | None", name: str) -> str:
    return "–" if figures is None else f"{getattr(figures, name):.4f}"


def _confirm(action: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidUsage(
            f"Pass --yes to {action}: there is no terminal to ask for confirmation. "
            "Nothing was done.",
            code="not_confirmed",
        )
    if not typer.confirm(one_line(f"{action[0].upper()}{action[1:]}?")):
        console.print("Nothing was done.")
        raise typer.Exit(1)


def _has_screen() -> bool:
    """Return whether a user sits here who can see a browser."""
    return console.is_terminal and (
        sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    )


def _local(time: datetime, form: str = "%Y-%m-%d %H:%M") -> str:
    return time.astimezone().strftime(form)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
