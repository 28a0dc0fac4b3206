"""Train the demonstration's model: fewer epochs than `loupe train` takes, to keep it short."""

from rich.console import Console

from loupe.store import StoredModel
from train.datasets import Dataset
from train.training import TrainConfig, train

EPOCHS = 2
EPOCHS_OF_FEW = 20  # for data sets of a few thousand images
FEW_IMAGES = 10_000


def train_model(dataset: Dataset, console: Console) -> StoredModel:
    """Train, check and save a model, and say how good it is."""
    epochs = EPOCHS if len(dataset.train.images) > FEW_IMAGES else EPOCHS_OF_FEW
    model = train(dataset, TrainConfig(epochs=epochs))
    figures = model.card.figures
    console.print(
        f"test accuracy {figures.accuracy:.4f}; Keras and ONNX Runtime agree within {figures.engines_difference:.0e}"
    )
    console.print(f"saved [bold]{model.tag}[/] to the BentoML model store", highlight=False)
    return model
