"""Command-line options that several commands share; those of `TrainConfig` are made from it."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from loupe.images.spec import MAX_SIDE, MIN_SIDE, Fit, Look
from train.config import FIELDS, help_text

Command = TypeVar("Command", bound=Callable[..., None])

DATASETS = (
    "fashion-mnist, mnist, kmnist, emnist, cifar10, cifar100, digits, or your own: folder:DIR, "
    "idx:DIR, npz:PATH, csv:PATH."
)

data = partial(typer.Option, rich_help_panel="Data")
DataDir = Annotated[Path | None, data(help="Folder with the data set's four IDX files.")]

# The fields of `ImageOptions`.
OwnLook = Annotated[
    Look | None,
    data(
        help="Look of your own pictures: ink, object or photo.",
        show_default="photo with --colour, else object",
    ),
]
Size = Annotated[
    str | None,
    data(
        metavar="N|HxW",
        help=f"Height and width of the images, {MIN_SIDE} to {MAX_SIDE} pixels: 64, or 48x64.",
        show_default="28; of colour arrays, their own",
    ),
]
Colour = Annotated[bool, data("--colour", help="Keep the colours of your own pictures.")]
PhotoFit = Annotated[
    Fit | None,
    data(help="How photos get their size: crop, pad or stretch.", show_default="crop"),
]

# Saving, in the training and the import of a model.
ReplaceClasses = Annotated[
    bool,
    typer.Option(
        "--replace-classes", help="Allow other classes than earlier models of the name have."
    ),
]

OPTION_NAMES = {
    "learning_rate": ("--learning-rate", "--lr"),
    "validation_fraction": ("--validation",),
}


def hyperparameter(name: str, panel: str, kind: Any = None, **settings: Any) -> inspect.Parameter:
    """Return a command's parameter for a field of `TrainConfig`.

    Args:
        name: The field.
        panel: Heading of the option in `--help`.
        kind: Type of the option; by default a flag, a number or text, as the field has it.
        settings: Further arguments of `typer.Option`.
    """
    field = FIELDS[name].annotation
    kind = kind or (field if field in (bool, int, float) and name != "batch_size" else str)
    option = typer.Option(
        *OPTION_NAMES.get(name, ()), help=help_text(name), rich_help_panel=panel, **settings
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default="cnn" if name == "architecture" else None,
        annotation=Annotated[kind | None, option],
    )


def with_options(*options: inspect.Parameter) -> Callable[[Command], Command]:
    """Add parameters to a command, which receives them as keywords."""

    def add(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [
            parameter
            for parameter in signature.parameters.values()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        command.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[*own, *options]
        )
        return command

    return add
