"""`loupe data`: shows a data set before anything is trained on it."""

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.images.selection import count, describe
from loupe.terminal import Column, console, notices, print_table
from train.options import DATASETS, Colour, DataDir, OwnLook, PhotoFit, Size

if TYPE_CHECKING:
    from train.data.datasets import Dataset

MIN_COLOUR_SHARE = 0.05  # of the pictures; fewer are exceptions
MAX_REPEATS = 10  # printed for a split

app = typer.Typer(help="Inspect data sets.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Inspect data sets."""


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help=f"digits-8x8, {DATASETS}",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file to write the samples to.", show_default="./NAME-samples.png"),
    ] = None,
    data_dir: DataDir = None,
    look: OwnLook = None,
    size: Size = None,
    colour: Colour = False,
    fit: PhotoFit = None,
) -> None:
    """Count the images of each class and split, and write a picture of samples."""
    from train.data.contact_sheet import save_contact_sheet
    from train.data.source import DataSource

    with notices.status(f"reading {name}"):
        source = DataSource.of(
            dataset=name, data_dir=data_dir, look=look, size=size, colour=colour, fit=fit
        )
        dataset = source.load()
        path = out or Path(f"{dataset.name}-samples.png")
        save_contact_sheet(dataset, path)
    _print_counts(dataset)
    print_left_out(dataset)
    print_doubts(dataset)
    console.print(f"samples: {path}")


@app.command()
def check(
    name: Annotated[str, typer.Argument(metavar="DATASET", help=f"digits-8x8, {DATASETS}")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="CSV file for the findings; a picture of them gets the same name and .png.",
            show_default="./NAME-check.csv",
        ),
    ] = None,
    data_dir: DataDir = None,
    look: OwnLook = None,
    size: Size = None,
    colour: Colour = False,
    fit: PhotoFit = None,
) -> None:
    """Look for wrong labels, repeats, blank and odd pictures; correct with train --relabel."""
    from train.data.check.findings import MIN_AGREEMENT, PROBLEMS, check_images, sheet, table
    from train.data.contact_sheet import save
    from train.data.source import DataSource

    with notices.status(f"checking {name}"):
        source = DataSource.of(
            dataset=name, data_dir=data_dir, look=look, size=size, colour=colour, fit=fit
        )
        dataset = source.load()
        found = check_images(dataset)
        findings = found.findings
        path = out or Path(f"{dataset.name}-check.csv")
        save(path, table(findings).encode())
        save(path.with_suffix(".png"), sheet(dataset, findings).png())
    print_left_out(dataset)
    counts = Counter(finding.problem for finding in findings)
    columns = [
        Column("problem", list(PROBLEMS)),
        Column("images", [f"{counts[problem]:,}" for problem in PROBLEMS], justify="right"),
        Column("meaning", list(PROBLEMS.values())),
    ]
    print_table(columns, "")
    if found.agreement < MIN_AGREEMENT:
        notices.print(
            f"Labels were not checked: only {found.agreement:.0%} agree with those of their "
            "neighbours.",
            style="yellow",
        )
    console.print(f"findings: {path}, {path.with_suffix('.png')}")
    if findings:
        console.print(
            "Delete the lines that you disagree with. Then train: "
            f"loupe train --dataset {shlex.quote(name)} --relabel {shlex.quote(str(path))}"
        )


def print_left_out(dataset: "Dataset") -> None:
    """List the pictures that cannot be read, and count the files that are not pictures."""
    if dataset.skipped:
        skipped = f"{count(dataset.skipped):,} ({describe(dataset.skipped)})"
        notices.print(f"left out, not pictures of a class: {skipped}")
    if dataset.unreadable:
        notices.print(f"left out, not readable: {len(dataset.unreadable):,}", style="yellow")
    for file in dataset.unreadable:
        line = f"  {file.path}: {file.reason}"
        notices.print(line)


def print_doubts(dataset: "Dataset") -> None:
    """Warn of colours that the model ignores, and of test images that are training images."""
    from train.data.repeats import find_repeats

    if dataset.colour_share >= MIN_COLOUR_SHARE:
        notices.print(
            f"{dataset.colour_share:.0%} of the pictures have colours, which the model does not "
            "see: it takes grey images. To keep colours: --size 64 --colour"
        )
    repeats = find_repeats(dataset)
    for name, split in dataset.splits().items():
        of_split = [repeat for repeat in repeats if repeat.split == name]
        if not of_split:
            continue
        nearly = sum(not repeat.identical for repeat in of_split)
        notices.print(
            f"{len(of_split):,} of {len(split.labels):,} {name} images are training images, too "
            f"({nearly:,} of them nearly). Remove them: they make the accuracy too high.",
            style="yellow",
        )
        for repeat in of_split[:MAX_REPEATS]:
            label = "" if repeat.same_label else ", with another label"
            notices.print(f"  {repeat.name} = {repeat.training_name}{label}")
        if len(of_split) > MAX_REPEATS:
            notices.print(f"  and {len(of_split) - MAX_REPEATS:,} more")


def _print_counts(dataset: "Dataset") -> None:
    """Print the number of images of each class in each split."""
    counts = {name: split.counts(dataset.class_names) for name, split in dataset.splits().items()}
    counts["total"] = {
        name: sum(numbers[name] for numbers in counts.values()) for name in dataset.class_names
    }
    columns = [Column("class", [*dataset.class_names, "all classes"])]
    for split, numbers in counts.items():
        cells = [f"{number:,}" for number in (*numbers.values(), sum(numbers.values()))]
        columns.append(Column(split, cells, justify="right"))
    size = " × ".join(map(str, dataset.train.images.shape[1:]))
    console.print(f"{dataset.name}: look {dataset.look}, {size} pixels")
    console.print()
    print_table(columns)
