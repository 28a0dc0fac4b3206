"""`loupe data`: what is in a data set, before anything is trained on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from loupe.images.spec import Look
from loupe.terminal import console, notices

if TYPE_CHECKING:
    from train.data.datasets import Dataset

app = typer.Typer(help="Look at a data set before training on it.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at a data set before training on it."""


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="fashion-mnist, mnist, digits, digits-8x8, idx:DIR or folder:DIR.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where to write the samples.", show_default="./NAME-samples.png"),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder with the four IDX files of a published set.")
    ] = None,
    look: Annotated[
        Look | None,
        typer.Option(help="How pictures of idx: and folder: are prepared.", show_default="object"),
    ] = None,
) -> None:
    """Write a picture of samples with their labels, and count the images of each class and split."""
    from train.data.contact_sheet import save_contact_sheet
    from train.data.datasets import load_dataset

    with notices.status(f"reading {escape(name)}"):
        dataset = load_dataset(name, data_dir, look=look)
        path = out or Path(f"{dataset.name}-samples.png")
        save_contact_sheet(dataset, path)
    console.print(_counts(dataset))
    tell_left_out(dataset)
    console.print(f"samples: {path}", markup=False, highlight=False, soft_wrap=True)


def tell_left_out(dataset: "Dataset") -> None:
    """List the files that are not in a data set because they cannot be read."""
    if dataset.left_out:
        notices.print(
            f"[yellow]left out, as they cannot be read: {len(dataset.left_out):,}[/]",
            highlight=False,
        )
    for left_out in dataset.left_out:
        notices.print(
            f"  {left_out.path}: {left_out.reason}", markup=False, highlight=False, soft_wrap=True
        )


def _counts(dataset: "Dataset") -> Table:
    counts = {name: split.counts(dataset.class_names) for name, split in dataset.splits().items()}
    about = f"{dataset.name}: look {dataset.look}, {' × '.join(map(str, dataset.train.images.shape[1:]))} pixels"
    table = Table(title=about, title_justify="left", show_footer=True)
    table.add_column("class", "all classes")
    for split, numbers in counts.items():
        table.add_column(split, f"{sum(numbers.values()):,}", justify="right")
    table.add_column(
        "total", f"{sum(sum(numbers.values()) for numbers in counts.values()):,}", justify="right"
    )
    for name in dataset.class_names:
        row = [numbers[name] for numbers in counts.values()]
        table.add_row(escape(name), *[f"{count:,}" for count in [*row, sum(row)]])
    return table
