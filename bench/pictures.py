"""Images to measure with: the test images of the model's data set if they are here, or made-up ones."""

from pathlib import Path

import numpy as np
from PIL import Image

from loupe.images import SIDE, UInt8Array
from loupe.store import StoredModel
from train.datasets import NAMES, load_dataset
from train.errors import DatasetNotFound

MARGIN = 4  # pixels; a dark border tells Loupe that a picture needs no preparation, as with the real ones


def find_images(model: StoredModel, count: int) -> UInt8Array:
    """Images of the kind the model was trained on: uint8 `(count, 28, 28)`, repeated where there are too few."""
    return np.resize(_known_images(model.card.dataset), (count, SIDE, SIDE))


def save_pngs(images: UInt8Array, folder: Path) -> None:
    """Write each image as a PNG file, named by its number."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:06d}.png")


def _known_images(dataset: str) -> UInt8Array:
    if dataset in NAMES:
        try:
            return load_dataset(dataset, download=False).test.images
        except DatasetNotFound:
            pass
    inside = np.random.default_rng(0).integers(0, 256, (1000, SIDE - 2 * MARGIN, SIDE - 2 * MARGIN), np.uint8)
    return np.pad(inside, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
