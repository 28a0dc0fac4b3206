"""`loupe train`: from a data set to a model in the store."""

import threading
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.images.spec import Look
from loupe.settings import load_settings
from loupe.terminal import console, log_to_stderr, notices
from train.data.cli import tell_left_out
from train.options import hidden_units, images_per_step
from train.sweep.cli import sweep
from train.tutorials.cli import classics

if TYPE_CHECKING:
    from train.data.datasets import Dataset
    from train.runs import Run

UNEVEN = 2.0  # times as many images as the rarest class has, from which on class weights are worth a thought

app = typer.Typer(help="Train a model, check it, and save it to the BentoML model store.")
app.command()(classics)
app.command()(sweep)

data = partial(typer.Option, rich_help_panel="Data")
model = partial(typer.Option, rich_help_panel="Model")
training = partial(
    typer.Option,
    rich_help_panel="Training; what is not said is as the architecture's recipe has it",
)


@app.callback(invoke_without_command=True)
def train(
    context: typer.Context,
    dataset: Annotated[
        str | None, data(help="fashion-mnist, mnist, digits, idx:DIR or folder:DIR.")
    ] = None,
    data_dir: Annotated[
        Path | None, data(help="Folder with the data set's four IDX files.")
    ] = None,
    look: Annotated[Look | None, data(help="How your own pictures look: ink or object.")] = None,
    extra: Annotated[
        str | None, data(help="folder:DIR with your own pictures of the same classes, mixed in.")
    ] = None,
    extra_classes: Annotated[
        Path | None, data(help="CSV file: which folder of --extra is which class.")
    ] = None,
    architecture: Annotated[
        str,
        model(
            help="softmax, mlp-sigmoid, mlp, mlp-512, mlp-small, cnn-small, cnn-classic, cnn or resnet."
        ),
    ] = "cnn",
    hidden: Annotated[str | None, model(help="Units of each hidden layer, as 128,64.")] = None,
    initializer: Annotated[
        str | None,
        model(
            help="How kernels begin: glorot-uniform, glorot-normal, he-uniform, he-normal or zeros."
        ),
    ] = None,
    bias: Annotated[float | None, model(help="What biases begin with.")] = None,
    epochs: Annotated[
        int | None, training(help="Times every training image is seen, at most.")
    ] = None,
    batch_size: Annotated[str | None, training(help="Images per step, or full.")] = None,
    optimizer: Annotated[
        str | None, training(help="sgd, adam, amsgrad, adamw, adagrad, adadelta or rmsprop.")
    ] = None,
    learning_rate: Annotated[
        float | None, training("--learning-rate", "--lr", help="At its highest.")
    ] = None,
    schedule: Annotated[
        str | None, training(help="Of the learning rate: constant, cosine or one-cycle.")
    ] = None,
    weight_decay: Annotated[
        float | None, training(help="Of the kernels, a step, times the learning rate.")
    ] = None,
    patience: Annotated[
        int | None,
        training(help="Stop after so many epochs without a better validation accuracy; 0: never."),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        training("--validation", help="Share of the training split to choose the best epoch by."),
    ] = None,
    augmentation: Annotated[
        bool | None, training(help="Change the images a little in every epoch.")
    ] = None,
    class_weights: Annotated[
        bool | None, training(help="Let images of rare classes count for more.")
    ] = None,
    seed: Annotated[
        int | None, training(help="The same one gives the same model on the same machine.")
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Least test accuracy of a model that is saved. The default depends on the data.",
        ),
    ] = None,
    if_empty: Annotated[
        bool, typer.Option("--if-empty", help="Do nothing where the store has a model already.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="Go on with a run that was stopped.", metavar="RUN")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Open TensorBoard beside the training.")
    ] = False,
) -> None:
    """Train a model, check it, and save it to the BentoML model store."""
    if context.invoked_subcommand:
        return
    log_to_stderr()
    from loupe.models.store import list_models

    if if_empty and (there := list_models()):
        console.print(f"The store has [bold]{there[0].tag}[/]: nothing to train.", highlight=False)
        return
    from loupe.old_errors.train import InvalidTraining
    from train.config import recipe
    from train.data.datasets import check_size
    from train.runs import Request, Run, Source

    home = load_settings().home
    if resume:
        run = Run.find(home, resume)
        if epochs is not None:
            run.change_epochs(epochs)
        images = run.request().source.load()
    elif dataset is None:
        raise InvalidTraining(
            "--dataset", "the name of a data set, or --resume and the name of a run", "neither"
        )
    else:
        changes = {
            "hidden": hidden_units(hidden),
            "initializer": initializer,
            "bias": bias,
            "epochs": epochs,
            "batch_size": images_per_step(batch_size),
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "schedule": schedule,
            "weight_decay": weight_decay,
            "patience": patience,
            "validation_fraction": validation_fraction,
            "augmentation": augmentation,
            "class_weights": class_weights,
            "seed": seed,
        }
        recipe(architecture, **changes)  # a wrong option is told before any picture is read
        source = Source(
            dataset=dataset, data_dir=data_dir, look=look, extra=extra, extra_classes=extra_classes
        )
        images = source.load()
        check_size(images)
        tell_left_out(images)
        introduce(images)
        config = recipe(architecture, len(images.train.labels), **changes)
        request = Request(source=source, config=config, min_accuracy=min_accuracy)
        run = Run.start(home, request)
    train_run(run, images, tensorboard=tensorboard)


def introduce(images: "Dataset") -> None:
    """Say what there is to learn from."""
    counts = images.train.counts(images.class_names).values()
    console.print(
        f"{images.name}: {sum(counts):,} images to train on, {len(images.test.labels):,} to test with",
        highlight=False,
    )
    if max(counts) > UNEVEN * min(counts):
        advice = "consider --class-weights"
        console.print(
            f"The classes are uneven, {min(counts):,} to {max(counts):,} images: {advice}.",
            highlight=False,
        )


def train_run(run: "Run", images: "Dataset", *, tensorboard: bool = False) -> None:
    """Train what a run was asked for, and print the tag."""
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    from loupe.old_errors.train import TrainingInterrupted
    from train.fit.board import board
    from train.job import work

    with board(run.folder.parent) if tensorboard else nullcontext() as url:
        if url:
            console.print(f"TensorBoard: {url}", highlight=False)
            typer.launch(url)
        try:
            saved = work(run, images, console)
        except TrainingInterrupted as interrupted:
            notices.print(
                f"\n{interrupted.message} Go on: loupe train --resume {run.name}",
                soft_wrap=True,
                highlight=False,
            )
            if interrupted.done:
                save = f"loupe train --resume {run.name} --epochs {interrupted.done}"
                notices.print(f"Or save the best so far: {save}", soft_wrap=True, highlight=False)
            raise typer.Exit(interrupted.exit_code) from None
        console.print(f"saved [bold]{saved.tag}[/]", highlight=False)
        if url:
            console.print("TensorBoard goes on until Ctrl-C.")
            with suppress(KeyboardInterrupt):
                threading.Event().wait()
