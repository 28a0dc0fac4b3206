"""`loupe models import`: saves a model that another program trained to the store."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.images.spec import Fit, Look
from loupe.logs import log_to_stderr
from loupe.settings import load_settings
from loupe.terminal import console, notices, styled
from train.importing.limits import run_limited
from train.importing.wiring import Output
from train.options import ReplaceClasses

if TYPE_CHECKING:
    from train.data.datasets import Dataset


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A .keras, .h5 or .onnx file, a SavedModel, or a tag in BentoML's store.",
        ),
    ],
    classes: Annotated[
        str,
        typer.Option(
            help="Class names in the order of the outputs: 0-9, or cat,dog, or a text file with "
            "one in each line.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name in the store.", show_default="the name of the file")
    ] = None,
    look: Annotated[
        Look | None,
        typer.Option(help="How its images look.", show_default="photo in colour"),
    ] = None,
    fit: Annotated[
        Fit | None, typer.Option(help="How photos get their size.", show_default="crop")
    ] = None,
    stated: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="TEXT",
            help="How it takes images, where its file does not say: 'float32 NCHW 0..1'.",
        ),
    ] = None,
    output: Annotated[
        Output | None, typer.Option(help="What its outputs are, where they do not show it.")
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Images that measure it: mnist, folder:DIR, idx:DIR, npz:PATH …"
        ),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature, so that confidences are true.")
    ] = False,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum test accuracy.",
            show_default="depends on the data set",
        ),
    ] = None,
    replace_classes: ReplaceClasses = False,
) -> None:
    """Save a model that another program trained to the store."""
    if seconds := load_settings().import_seconds:
        raise typer.Exit(run_limited(sys.argv[1:], seconds))
    log_to_stderr()
    from loupe.models.saving import check_name, check_writable
    from train.data.own.folders import slug
    from train.importing.classes import parse_classes
    from train.importing.importing import ImportOptions, import_model
    from train.importing.reading import parse_input
    from train.importing.source import find_source

    check_name(name)
    check_writable()
    found = find_source(source)
    options = ImportOptions(
        name=name or slug(Path(found.name).stem),
        classes=parse_classes(classes),
        look=look,
        fit=fit,
        input=parse_input(stated or ""),
        output=output,
        test=test,
        calibrate=calibrate,
        min_accuracy=min_accuracy,
        replace_classes=replace_classes,
    )
    saved = import_model(found.open(), found.name, options, _announce)
    config, figures = saved.card.config, saved.card.figures
    console.print(f"{config['architecture']}: {config['input']}, {config['output']}")
    if figures is None:
        console.print("not measured: import it with --test to know how good it is")
    else:
        console.print(
            f"test accuracy {figures.accuracy:.4f}, {figures.test_images:,} images, calibration "
            f"error {figures.calibration_error:.4f}"
        )
    console.print(styled("saved ", (saved.tag, "bold")))


def _announce(dataset: "Dataset") -> None:
    """Print what was left out of the test images, and the classes that they do not measure."""
    from train.data.cli import print_left_out
    from train.data.splits import quoted

    print_left_out(dataset)
    counts = dataset.test.counts(dataset.class_names)
    if missing := [name for name, count in counts.items() if not count]:
        notices.print(f"no test images of {quoted(missing)}")
