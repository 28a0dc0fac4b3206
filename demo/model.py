"""Train the demonstration's model: a small network, for a few epochs to keep it short."""

from loupe.models.store import StoredModel
from loupe.terminal import console, styled
from train.config import recipe
from train.data.datasets import Dataset
from train.fit.progress import ProgressBar
from train.fit.training import train

EPOCHS = 2
EPOCHS_OF_SMALL = 20  # for data sets of fewer than SMALL_IMAGES
SMALL_IMAGES = 10_000


def train_model(dataset: Dataset) -> StoredModel:
    """Train, check and save a model, and print how good it is."""
    epochs = EPOCHS if len(dataset.train.images) > SMALL_IMAGES else EPOCHS_OF_SMALL
    config = recipe("cnn-small", epochs=epochs)
    model = train(dataset, config, callbacks=[ProgressBar(console, config)])
    figures = model.card.measured
    console.print(f"test accuracy {figures.accuracy:.4f}")
    console.print(f"Keras and ONNX Runtime agree within {figures.engines_difference:.0e}")
    console.print(styled("saved ", (model.tag, "bold"), " to the BentoML model store"))
    return model
