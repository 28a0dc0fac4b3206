"""`loupe models`: what is in the store."""

import typer
from rich.table import Table

from loupe.terminal import console

app = typer.Typer(help="List the models in the store, newest first.")


@app.callback(invoke_without_command=True)
def models() -> None:
    """List the models in the store, newest first."""
    from loupe.store import list_models

    found = list_models()
    if not found:
        console.print("The model store is empty. Train a model: loupe train --dataset fashion-mnist")
        return
    table = Table("tag", "classes", "test accuracy", "created")
    for model in found:
        card = model.card
        created = card.created.astimezone().strftime("%Y-%m-%d %H:%M")
        table.add_row(model.tag, str(len(card.class_names)), f"{card.figures.accuracy:.4f}", created)
    console.print(table)
