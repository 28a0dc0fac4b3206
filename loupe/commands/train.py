"""`loupe train`: from a data set to a model in the store."""

from pathlib import Path
from typing import Annotated

import typer

from loupe.terminal import console, log_to_stderr

app = typer.Typer(help="Train a model, check it, and save it to the BentoML model store.")


@app.callback(invoke_without_command=True)
def train(
    dataset: Annotated[str, typer.Option(help="fashion-mnist, mnist or digits.")],
    data_dir: Annotated[Path | None, typer.Option(help="Folder with the data set's four IDX files.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times every training image is seen.")] = 6,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 128,
    learning_rate: Annotated[float, typer.Option(min=0, help="Of Adam, at the first step.")] = 3e-3,
    seed: Annotated[int, typer.Option(help="The same seed gives the same model on the same machine.")] = 0,
) -> None:
    """Train a model, check it, and save it to the BentoML model store."""
    from train.datasets import check_name, load_dataset
    from train.tensorflow import import_tensorflow

    name = check_name(dataset)  # a wrong name is told before TensorFlow takes its seconds
    log_to_stderr()
    import_tensorflow()
    from train.training import TrainConfig
    from train.training import train as run

    config = TrainConfig(epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    model = run(load_dataset(name, data_dir), config)
    figures = model.card.figures
    console.print(f"test accuracy {figures.accuracy:.4f}, loss {figures.loss:.4f} on {figures.test_images:,} images")
    console.print(f"saved [bold]{model.tag}[/]", highlight=False)
