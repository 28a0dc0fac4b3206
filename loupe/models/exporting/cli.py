"""`loupe models export`: writes a stored model for another program."""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from loupe.errors import InvalidUsage, NotWritable
from loupe.models.exporting.formats import FORMATS, Format
from loupe.models.store import find_model, verify
from loupe.terminal import console, styled


def export(
    tag: Annotated[str, typer.Argument(metavar="TAG", help="The model, as NAME or NAME:VERSION.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
    format_: Annotated[
        Format, typer.Option("--format", help="The program that reads it.")
    ] = "onnx",
) -> None:
    """Write a model to a folder, for another program."""
    model = find_model(tag)
    verify(model)
    target = folder.expanduser().absolute()
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise InvalidUsage(
                f"'{folder}' is not empty, and nothing is overwritten. Name a new folder.",
                code="folder_not_empty",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        # The folder gets its name when it is complete.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as temporary:
            content = Path(temporary) / "content"
            content.mkdir()
            FORMATS[format_](model, content)
            if target.exists():
                target.rmdir()
            shutil.move(content, target)
    except OSError as error:
        raise NotWritable(
            f"'{folder}' cannot be written: {error.strerror or error}.", code="file_not_writable"
        ) from error
    console.print(styled("exported ", (model.tag, "bold"), f" to {folder}, for {format_}:"))
    for path in sorted(target.rglob("*")):
        if path.is_file():
            console.print(f"  {path.relative_to(target)}")
