"""`loupe train`: trains a model on a data set and saves it to the store."""

import os
from collections.abc import Collection
from contextlib import nullcontext
from difflib import get_close_matches
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from loupe.cli.commands import Group
from loupe.errors import Interrupted, InvalidUsage
from loupe.logs import log_to_stderr
from loupe.settings import load_settings
from loupe.terminal import console, notices, styled
from train.config import FIELDS, TrainConfig, as_json, recipe
from train.data.cli import print_doubts, print_left_out
from train.options import (
    DATASETS,
    Colour,
    DataDir,
    OwnLook,
    PhotoFit,
    ReplaceClasses,
    Size,
    data,
    hyperparameter,
    with_options,
)
from train.sweep.cli import sweep
from train.tutorials.cli import classics

if TYPE_CHECKING:
    from loupe.models.store import StoredModel
    from train.data.datasets import Dataset
    from train.runs import Run

MAX_IMBALANCE = 2.0  # ratio of the largest to the smallest class that needs no class weights

# Options that a resumed run takes; the request of the run has all others.
RESUMED = ("resume", "epochs", "min_accuracy", "tensorboard", "if_empty", "promote")
QUICK = "cnn-small"
QUICK_EPOCHS = (2, 6)  # of many images, and of few
QUICK_IMAGES = 8_000  # that are learnt from in all, within these epochs

# Options made from `TrainConfig`, by panel.
MODEL_OPTIONS = ("architecture", "pretrained", "hidden", "initializer", "bias")
RECIPE_ONLY = ("erasing", "mixup", "label_smoothing", "shifted_views", "bfloat16")
SWEEP_ONLY = ("test_fraction",)
PANELS = {
    "Model": MODEL_OPTIONS,
    "Training (defaults: the architecture's recipe)": [
        name for name in FIELDS if name not in (*MODEL_OPTIONS, *RECIPE_ONLY, *SWEEP_ONLY)
    ],
}


class TrainGroup(Group):
    """A group whose first argument may be a data set instead of a command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `DATASET`, before or after options, as `--dataset DATASET`."""
        given, rest, _ = self.make_parser(ctx).parse_args(list(args))
        if rest and rest[0] not in self.commands and not self._is_typo(rest[0]):
            if "dataset" in given:
                ctx.fail(f"'{given['dataset']}' and '{rest[0]}': give one data set.")
            at = len(args) - len(rest)
            return self.parse_args(ctx, [*args[:at], f"--dataset={rest[0]}", *rest[1:]])
        return super().parse_args(ctx, args)

    def _is_typo(self, word: str) -> bool:
        """Return whether a word probably means one of the commands."""
        is_path = os.path.exists(word)  # noqa: PTH110 - pathlib raises for names that are too long
        return not is_path and bool(get_close_matches(word, self.commands, 1))


app = typer.Typer(
    cls=TrainGroup,
    help="Train a model, evaluate it, and save it to the model store.",
    subcommand_metavar="[DATASET] | COMMAND …",
)
app.command()(classics)
app.command()(sweep)


@app.callback(invoke_without_command=True)
@with_options(*(hyperparameter(name, panel) for panel, names in PANELS.items() for name in names))
def train(
    context: typer.Context,
    dataset: Annotated[
        str | None,
        data(help=DATASETS),
    ] = None,
    data_dir: DataDir = None,
    look: OwnLook = None,
    size: Size = None,
    colour: Colour = False,
    fit: PhotoFit = None,
    extra: Annotated[
        str | None, data(help="folder:DIR with your own pictures of the same classes to add.")
    ] = None,
    extra_classes: Annotated[
        Path | None, data(help="CSV file that maps the folders of --extra to classes.")
    ] = None,
    relabel: Annotated[
        Path | None,
        data(metavar="CSV", help="Corrected labels: what you kept of `loupe data check`."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the model.", show_default="the name of the data set or folder"),
    ] = None,
    replace_classes: ReplaceClasses = False,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum test accuracy to save the model.",
            show_default="depends on the data set",
        ),
    ] = None,
    if_empty: Annotated[
        bool, typer.Option("--if-empty", help="Do nothing if the store has a model.")
    ] = False,
    if_missing: Annotated[
        bool,
        typer.Option(
            "--if-missing",
            help="Do nothing if the store has a model of this name and these settings.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Train a small network for a first try in a minute or two, whatever the other "
            "settings; save it at any accuracy.",
        ),
    ] = False,
    promote: Annotated[
        bool,
        typer.Option(
            "--promote",
            help="Put the model into production if it is better than the one there, beyond noise.",
        ),
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="Continue the interrupted run with this name.", metavar="RUN")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Open TensorBoard during the training.")
    ] = False,
    **hyperparameters: object,
) -> None:
    """Train a model, evaluate it, and save it to the model store."""
    if command := context.invoked_subcommand:
        _refuse_options(context, (), f"{command}, whose options follow its name")
        return
    log_to_stderr()
    from loupe.models.saving import check_classes, check_name
    from loupe.models.store import list_models

    if if_empty and (models := list_models()):
        console.print(styled("The store has ", (models[0].tag, "bold"), ": nothing to train."))
        return
    from train.data.source import DataSource
    from train.familiarity.outliers import default_share
    from train.runs import Run

    home = load_settings().home
    if resume:
        _refuse_options(context, RESUMED, "--resume, which repeats the options of its run")
        epochs = cast("int | None", hyperparameters["epochs"])
        with Run.resume(home, resume, epochs, min_accuracy) as (run, images):
            _train(run, images, tensorboard=tensorboard, promote=promote)
        return
    if dataset is None:
        raise InvalidUsage(
            "Name a data set: loupe train fashion-mnist, or loupe train FOLDER with your own "
            "pictures. To continue a run: --resume RUN.",
            code="invalid_training",
        )
    if quick:
        console.print(f"Training a small first model on {dataset}: a minute or two.")
        hyperparameters, min_accuracy = {"architecture": QUICK}, 0.0
    architecture = str(hyperparameters.pop("architecture"))
    recipe(architecture, **hyperparameters)  # refuses bad options before reading any picture
    check_name(name)
    source = DataSource.of(
        dataset=dataset,
        data_dir=data_dir,
        look=look,
        size=size,
        colour=colour,
        fit=fit,
        extra=extra,
        extra_classes=extra_classes,
        relabel=relabel,
    )
    images = source.load()
    if not replace_classes:
        check_classes(name or images.name, images.class_names)
    print_left_out(images)
    print_doubts(images)
    print_counts(images)
    if quick:
        least, most = QUICK_EPOCHS
        epochs = ceil(QUICK_IMAGES / len(images.train.labels))
        hyperparameters["epochs"] = min(max(least, epochs), most)
    if hyperparameters.get("outliers") is None:
        hyperparameters["outliers"] = default_share(images)
    config = recipe(architecture, len(images.train.labels), images.look, **hyperparameters)
    options = {"min_accuracy": min_accuracy, "name": name, "replace_classes": replace_classes}
    if if_missing and (there := find_trained(name or images.name, config)):
        console.print(styled("The store has ", (there.tag, "bold"), ": nothing to train."))
        return
    with Run.start(home, source, images, config, **options) as run:
        _train(run, images, tensorboard=tensorboard, promote=promote)


def _refuse_options(context: typer.Context, allowed: Collection[str], reason: str) -> None:
    """Raise `InvalidUsage` if the command line has other options than the allowed ones."""
    refused = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name not in allowed and _is_given(context, parameter.name)
    ]
    if refused:
        raise InvalidUsage(
            f"{', '.join(refused)} cannot be combined with {reason}.", code="invalid_training"
        )


def _is_given(context: typer.Context, parameter: str | None) -> bool:
    source = context.get_parameter_source(parameter or "")
    return source is not None and source.name == "COMMANDLINE"


def print_counts(images: "Dataset") -> None:
    """Print size and number of the images, and recommend class weights for uneven classes."""
    counts = images.train.counts(images.class_names).values()
    console.print(
        f"{images.name}: {sum(counts):,} training images of {images.spec} pixels, "
        f"{len(images.test.labels):,} test images"
    )
    if max(counts) > MAX_IMBALANCE * min(counts):
        console.print(
            f"The classes have {min(counts):,} to {max(counts):,} images. Try --class-weights."
        )


def find_trained(name: str, config: TrainConfig) -> "StoredModel | None":
    """Return the newest model of a name that was trained with these settings."""
    from loupe.models.store import list_models

    settings = as_json(config).items()
    same = (m for m in list_models(name) if all(m.card.config.get(k) == v for k, v in settings))
    return next(same, None)


def _train(run: "Run", images: "Dataset", *, tensorboard: bool, promote: bool) -> None:
    """Train or resume a run and print its summary; after Ctrl-C, print how to continue."""
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    from train.fit.board import board
    from train.runs import train_run
    from train.summary import print_summary

    with board(run.folder.parent) if tensorboard else nullcontext() as url:
        if url:
            console.print(f"TensorBoard: {url}")
            typer.launch(url)
        try:
            saved = train_run(run, images, console)
        except Interrupted as interrupted:
            resume = f"loupe train --resume {run.name}"
            notices.print()
            notices.print(f"{interrupted.message} Continue: {resume}")
            if interrupted.done:
                notices.print(f"Or save the best so far: {resume} --epochs {interrupted.done}")
            raise typer.Exit(interrupted.exit_code) from None
        print_summary(saved, promote=promote)
    if url:
        logs = run.folder.parent
        console.print(f"TensorBoard has ended. Look again: tensorboard --logdir {logs}")
