"""The command `loupe predict`."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.errors import InvalidImage, InvalidUsage, NotWritable, RequestRefused
from loupe.settings import load_settings
from loupe.terminal import Column, notices, print_table, warnings_as_notices
from loupe.text import one_line

if TYPE_CHECKING:
    from loupe.client.client import Client
    from loupe.client.predictions import (
        LocalOptions,
        Outcome,
        Prediction,
        PredictionError,
    )

NO_LABEL = "–"
MAX_FOLDER_PICTURES = 1_000  # more belong into a job
OF_PICTURES = (413, 422)  # statuses of answers about the picture, not about the request


def predict(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE…", help="Pictures of any size, or folders of them.", show_default=False
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="NAME, NAME:VERSION or NAME:production.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Number of classes to show, most probable first.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum confidence for a label.")
    ] = None,
    min_familiarity: Annotated[
        float | None, typer.Option(min=0, max=1, help="Minimum familiarity for a label.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Also show classes of which one is true, except with probability A.",
            metavar="A",
        ),
    ] = None,
    lang: Annotated[str, typer.Option(help="Language of the class names: en or ja.")] = "en",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON per file.")
    ] = False,
    split: Annotated[
        bool,
        typer.Option("--split", help="Answer each of several digits in a picture, left to right."),
    ] = False,
    grid: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw the pictures, what the model saw, and bars."),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Use the model store of this machine, no service.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(
            help="Address of the service.", show_default="LOUPE_URL or http://127.0.0.1:3000"
        ),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key.", show_default="LOUPE_API_KEY")
    ] = None,
) -> None:
    """Classify pictures, with the running service or --local.

    The exit code is 1 if some cannot be read.
    """
    if local and (url or api_key):
        raise InvalidUsage("Give either --local or the --url and --api-key of a service.")
    if split and grid:
        raise InvalidUsage("A grid shows one label per picture; give either --grid or --split.")
    from loupe.client.predictions import PredictionError
    from loupe.client.uploads import pictures_at

    with warnings_as_notices():  # about files in folders that are not pictures
        files = [file for path in files for file in pictures_at(path, MAX_FOLDER_PICTURES)]
    if grid is not None:
        _check_grid(grid, len(files))
    options: LocalOptions = {"top_k": top_k, "threshold": threshold, "lang": lang}
    options |= {"min_familiarity": min_familiarity, "alpha": alpha}
    asked = _ask_here(files, model, options, split)
    if not local:
        asked = _ask_service(files, model, options, split, url, api_key, explain=grid is not None)
    shown: list[Path] = []
    outcomes: list[Outcome] = []
    for file, outcome in asked:
        if as_json:
            typer.echo(one_line(_json_line(file, outcome)))
        shown.append(file)
        outcomes.append(outcome)
    if not as_json:
        _print(shown, outcomes, top_k)
    if grid is not None:
        _draw(grid, files, outcomes)
    if any(isinstance(outcome, PredictionError) for outcome in outcomes):
        raise typer.Exit(1)


def _ask_here(
    files: Sequence[Path], model: str | None, options: "LocalOptions", split: bool
) -> Iterator[tuple[Path, "Outcome"]]:
    from loupe.client.local import load

    loaded = load(model)
    if split:
        yield from _each_symbol(files, lambda file: loaded.split(file, **options))
    else:
        yield from zip(files, loaded.predict_many(files, **options), strict=True)


def _ask_service(
    files: Sequence[Path],
    model: str | None,
    options: "LocalOptions",
    split: bool,
    url: str | None,
    api_key: str | None,
    *,
    explain: bool,
) -> Iterator[tuple[Path, "Outcome"]]:
    """Yield files and the answers of the service; for a grid, the first ones have a view."""
    from loupe.client.client import Client
    from loupe.client.grid import MAX_TILES

    settings = load_settings()
    key = settings.api_key.get_secret_value() if settings.api_key else None
    url = url or settings.url or f"http://127.0.0.1:{settings.port}"
    with Client(url, api_key=api_key or key) as client:
        if split:
            yield from _each_symbol(files, lambda file: client.split(file, model=model, **options))
            return
        if explain:
            for file in files[:MAX_TILES]:
                yield file, _explained(client, file, model, options)
            files = files[MAX_TILES:]
        outcomes = client.predict_many(files, model=model, **options)
        yield from zip(files, outcomes, strict=True)


def _each_symbol(
    files: Sequence[Path], split: Callable[[Path], "list[Prediction]"]
) -> Iterator[tuple[Path, "Outcome"]]:
    from loupe.client.predictions import PredictionError

    for file in files:
        try:
            found = split(file)
        except (InvalidImage, RequestRefused) as error:
            if isinstance(error, RequestRefused) and error.status not in OF_PICTURES:
                raise
            yield file, PredictionError(error.code, error.message)
        else:
            yield from ((file, each) for each in found)
            if not found:
                notices.print(f"{_name(file)}: blank")


def _explained(
    client: "Client", file: Path, model: str | None, options: "LocalOptions"
) -> "Outcome":
    """Predict one picture with what the model saw; return its error if it cannot be read."""
    from loupe.client.predictions import PredictionError

    try:
        return client.predict(file, explain="seen", model=model, **options)
    except (InvalidImage, RequestRefused) as error:
        if isinstance(error, RequestRefused) and error.status not in OF_PICTURES:
            raise
        return PredictionError(error.code, error.message)


def _json_line(file: Path, outcome: "Prediction | PredictionError") -> str:
    from loupe.client.predictions import PredictionError

    if isinstance(outcome, PredictionError):
        found: dict[str, object] = {"error": outcome.message, "code": outcome.code}
    else:
        found = asdict(outcome)
        for name in ("box", "prediction_set"):
            if found[name] is None:
                del found[name]
    return json.dumps({"file": _name(file), **found}, ensure_ascii=False)


def _print(
    files: Sequence[Path], outcomes: "Sequence[Prediction | PredictionError]", top_k: int | None
) -> None:
    from loupe.client.predictions import Prediction

    def cells(describe: Callable[[Prediction], str]) -> list[str]:
        return [describe(each) if isinstance(each, Prediction) else "" for each in outcomes]

    columns = [
        Column("file", list(map(str, files))),
        Column("label", cells(lambda answer: answer.label or answer.reason or NO_LABEL)),
        Column("confidence", cells(lambda answer: f"{answer.confidence:.4f}"), justify="right"),
    ]
    if any(isinstance(each, Prediction) and each.familiarity is not None for each in outcomes):
        columns.append(Column("familiarity", cells(_familiarity), rank=1, justify="right"))
    if any(isinstance(each, Prediction) and each.prediction_set is not None for each in outcomes):
        columns.append(Column("one of", cells(_prediction_set), rank=1))
    if top_k and top_k > 1:
        columns.append(Column("others", cells(_others), rank=1))
    errors = {
        row: f"error: {outcome.message}"
        for row, outcome in enumerate(outcomes)
        if not isinstance(outcome, Prediction)
    }
    print_table(columns, "See: --json", errors)
    if any(isinstance(each, Prediction) and each.unfamiliar for each in outcomes):
        notices.print("!: unfamiliar, unlike the pictures that the model learnt")
    answered_by = dict.fromkeys(each.model for each in outcomes if isinstance(each, Prediction))
    for tag in answered_by:  # several, if the service changed its model in between
        notices.print(f"answered by {tag}")


def _familiarity(answer: "Prediction") -> str:
    if answer.familiarity is None:
        return NO_LABEL
    return f"{'!' if answer.unfamiliar else ''}{answer.familiarity:.4f}"


def _prediction_set(answer: "Prediction") -> str:
    return ", ".join(answer.prediction_set or ()) or NO_LABEL


def _others(answer: "Prediction") -> str:
    """Return the classes after the label, with their probabilities."""
    names = list(answer.probabilities)
    shown = names if answer.label is None else names[1:]
    return ", ".join(f"{name} {answer.probabilities[name]:.4f}" for name in shown)


def _name(file: Path) -> str:
    """Return a path as text; bytes that are not UTF-8 become `�`."""
    return str(file).encode(errors="surrogateescape").decode(errors="replace")


def _check_grid(path: Path, count: int) -> None:
    """Report what prevents drawing before the service is called."""
    from loupe.client.grid import MAX_TILES

    if not path.parent.is_dir():
        raise NotWritable(f"'{path}' cannot be written: there is no folder '{path.parent}'.")
    if count > MAX_TILES:
        notices.print(f"The grid shows the first {MAX_TILES} of {count:,}.", style="yellow")


def _draw(
    path: Path, files: Sequence[Path], outcomes: "Sequence[Prediction | PredictionError]"
) -> None:
    from loupe.client.grid import MAX_TILES, draw
    from loupe.client.predictions import Prediction
    from loupe.drawing import unwritable

    shown = outcomes[:MAX_TILES]
    labels = [outcome.label for outcome in shown if isinstance(outcome, Prediction)]
    if missing := unwritable(label for label in labels if label):
        notices.print(
            f"No installed font can write '{missing[0]}': the grid shows class numbers instead. "
            "Install one, on Debian: apt install fonts-noto-cjk"
        )
    try:
        path.write_bytes(draw(zip(files, shown, strict=False)))
    except OSError as error:
        raise NotWritable(f"'{path}' cannot be written: {error.strerror}.") from error
    notices.print(f"grid: {path}")
