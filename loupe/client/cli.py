"""`loupe predict`: what a model sees in a few pictures, asked of the service."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.settings import Settings, load_settings
from loupe.terminal import Column, notices, print_table

if TYPE_CHECKING:
    from loupe.client.predictions import Prediction, PredictionError

UNSURE = "–"  # in the place of a label


def predict(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Pictures of any size.", show_default=False),
    ],
    model: Annotated[
        str | None, typer.Option(help="NAME, NAME:VERSION or NAME:production.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="How many classes to name, the likeliest first.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence below which no label is given.")
    ] = None,
    lang: Annotated[str, typer.Option(help="Language of the class names: en or ja.")] = "en",
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each file, with all probabilities.")
    ] = False,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the pictures with their labels above them."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            help="Where the service is.", show_default="LOUPE_URL or http://127.0.0.1:3000"
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(help="What the service knows you by.", show_default="LOUPE_API_KEY"),
    ] = None,
) -> None:
    """Ask the running service what is in pictures. The exit code is 1 if one could not be read; the others are answered all the same."""
    settings = load_settings()
    if grid is not None:
        _check_grid(grid, len(files))
    from loupe.client.client import Client
    from loupe.client.predictions import PredictionError

    outcomes: list[Prediction | PredictionError] = []
    with Client(url or _address(settings), api_key=api_key or _key(settings)) as client:
        for outcome in client.predict_many(
            files, model=model, top_k=top_k, threshold=threshold, lang=lang
        ):
            if as_json:
                typer.echo(_json_line(files[len(outcomes)], outcome))
            outcomes.append(outcome)
    if not as_json:
        _print(files, outcomes, top_k)
    if grid is not None:
        _draw(grid, files, outcomes)
    if any(isinstance(outcome, PredictionError) for outcome in outcomes):
        raise typer.Exit(1)


def _address(settings: Settings) -> str:
    return settings.url or f"http://127.0.0.1:{settings.port}"


def _key(settings: Settings) -> str | None:
    return settings.api_key.get_secret_value() if settings.api_key else None


def _json_line(file: Path, outcome: "Prediction | PredictionError") -> str:
    from loupe.client.predictions import PredictionError

    if isinstance(outcome, PredictionError):
        found: dict[str, object] = {"error": outcome.message, "code": outcome.code}
    else:
        found = asdict(outcome)
    return json.dumps({"file": _name(file), **found}, ensure_ascii=False)


def _print(
    files: Sequence[Path], outcomes: "Sequence[Prediction | PredictionError]", top_k: int | None
) -> None:
    from loupe.client.predictions import Prediction

    answers = [outcome if isinstance(outcome, Prediction) else None for outcome in outcomes]
    columns = [
        Column("file", [_printable(file) for file in files]),
        Column("label", ["" if answer is None else answer.label or UNSURE for answer in answers]),
        Column(
            "confidence",
            ["" if answer is None else f"{answer.confidence:.4f}" for answer in answers],
            justify="right",
        ),
    ]
    if top_k and top_k > 1:
        columns.append(
            Column(
                "others", ["" if answer is None else _others(answer) for answer in answers], rank=1
            )
        )
    errors = {
        row: f"error: {outcome.message}"
        for row, outcome in enumerate(outcomes)
        if not isinstance(outcome, Prediction)
    }
    print_table(columns, "See: --json", errors)


def _others(answer: "Prediction") -> str:
    """The classes after the first, where the probabilities are those of the likeliest."""
    names = list(answer.probabilities)
    shown = names if answer.abstained else names[1:]
    return ", ".join(f"{name} {answer.probabilities[name]:.4f}" for name in shown)


def _name(file: Path) -> str:
    """A path without what is no Unicode in it."""
    return str(file).encode(errors="surrogateescape").decode(errors="replace")


def _printable(file: Path) -> str:
    """A path on one line."""
    return "".join(letter if letter.isprintable() else "�" for letter in _name(file))


def _check_grid(path: Path, count: int) -> None:
    """Report what prevents drawing before the service is called."""
    from loupe.client.grid import MAX_TILES

    if not path.parent.is_dir():
        from loupe.old_errors.train import FileNotWritable

        raise FileNotWritable(str(path), f"no folder '{path.parent}'")
    if count > MAX_TILES:
        notices.print(
            f"[yellow]The grid shows the first {MAX_TILES} of {count:,}.[/]", highlight=False
        )


def _draw(
    path: Path, files: Sequence[Path], outcomes: "Sequence[Prediction | PredictionError]"
) -> None:
    from loupe.client.grid import MAX_TILES, draw
    from loupe.client.predictions import Prediction
    from loupe.drawing import unwritable
    from loupe.old_errors.train import FileNotWritable

    shown = outcomes[:MAX_TILES]
    labels = [outcome.label for outcome in shown if isinstance(outcome, Prediction)]
    if missing := unwritable(label for label in labels if label):
        notices.print(
            f"No font here can write '{missing[0]}': the grid shows numbers of classes instead. "
            "Install one, on Debian: apt install fonts-noto-cjk",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    try:
        path.write_bytes(draw(zip(files, shown, strict=False)))
    except OSError as error:
        raise FileNotWritable(str(path), str(error.strerror)) from error
    notices.print(f"grid: {path}", markup=False, highlight=False, soft_wrap=True)
