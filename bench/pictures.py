"""Images to measure with: the test images of the model's data set if they are here, or made-up ones."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from loupe.images import SIDE, UInt8Array
from loupe.store import StoredModel
from train.datasets import NAMES, load_dataset
from train.errors import DatasetNotFound

PHOTO_SIZE = (4000, 3000)  # pixels, width and height: 12 million, as phones make them
PHOTO_QUALITY = 90  # of JPEG
MARGIN = 4  # pixels; a dark border tells Loupe that a picture needs no preparation, as with the real ones


def find_images(model: StoredModel, count: int) -> UInt8Array:
    """Images of the kind the model was trained on: uint8 `(count, 28, 28)`, repeated where there are too few."""
    return np.resize(_known_images(model.card.dataset), (count, SIDE, SIDE))


def save_pngs(images: UInt8Array, folder: Path) -> None:
    """Write each image as a PNG file, named by its number."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:06d}.png")


def photo(seed: int = 0) -> bytes:
    """A JPEG file of 12 megapixels that is as hard to decode as a photo: shapes, shades, and detail of every size; the same each time."""
    rng = np.random.default_rng(seed)
    width, height = PHOTO_SIZE
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 90), (32, 40), (250, 20), (1000, 10)):  # over the width
        grid = rng.normal(0, strength, (cells * height // width, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
    picture = Image.fromarray(np.clip(pixels + 140, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y, size = (int(rng.integers(low, high)) for low, high in ((0, width), (0, height), (50, 600)))
        red, green, blue = (int(shade) for shade in rng.integers(0, 256, 3))
        box = (x - size, y - size // 2, x + size, y + size // 2)
        draw.ellipse(box, outline=(red, green, blue), width=size // 20 + 1)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=PHOTO_QUALITY)
    return file.getvalue()


def _known_images(dataset: str) -> UInt8Array:
    if dataset in NAMES:
        try:
            return load_dataset(dataset, download=False).test.images
        except DatasetNotFound:
            pass
    inside = np.random.default_rng(0).integers(0, 256, (1000, SIDE - 2 * MARGIN, SIDE - 2 * MARGIN), np.uint8)
    return np.pad(inside, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
