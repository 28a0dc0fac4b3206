"""Inputs of benchmarks and stress tests: a model, images, and HTTP requests."""

import base64
import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from PIL import Image, ImageDraw

from loupe.drawing import encode_png
from loupe.errors import LoupeError
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.store import StoredModel, find_model, list_models
from train.data.datasets import NAMES, load_dataset

ARCHITECTURE = "cnn-small"  # of the default model
MODEL_HELP = f"default: the newest {ARCHITECTURE} in the store"
EPOCHS = 4  # are enough for an accuracy of 0.9 on digits
PHOTO_SIZE = (4000, 3000)  # pixels, width × height: 12 megapixels, as phones take them
PHOTO_QUALITY = 90  # of JPEG
MARGIN = 4  # pixels; with a dark border, images need no normalizing

JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"
JSON_LENGTH = "Inference-Header-Content-Length"


@contextmanager
def benchmark_model(tag: str | None = None) -> Iterator[StoredModel]:
    """Yield a model from the store, or train one in a temporary store.

    Args:
        tag: The model. By default, the newest `cnn-small` in the store. If the store has none, one
            is trained on scikit-learn's digits, which takes some seconds.
    """
    if tag is not None:
        yield find_model(tag)
        return
    stored = [each for each in list_models() if each.card.config["architecture"] == ARCHITECTURE]
    if stored:
        yield stored[0]
        return
    print(f"The store has no {ARCHITECTURE}; training one on digits.")
    with tempfile.TemporaryDirectory(prefix="loupe-bench-") as home:
        models = Path(home, "models")
        models.mkdir()
        os.environ["BENTOML_HOME"] = home  # for child processes
        BentoMLContainer.model_store.set(ModelStore(models))
        yield _train()


def _train() -> StoredModel:
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    from train.config import recipe
    from train.fit.training import train

    return train(load_dataset("digits"), recipe(ARCHITECTURE, epochs=EPOCHS, batch_size=64))


def find_images(model: StoredModel, count: int) -> UInt8Array:
    """Return images like those the model was trained on.

    They are the test images of the model's data set, or random ones if it is not on this machine.

    Returns:
        uint8, shape `(count, *model.card.input.shape)`; they repeat if there are too few.
    """
    spec = model.card.input
    return np.resize(_test_images(model.card.dataset, spec), (count, *spec.shape))


def _test_images(dataset: str, spec: ImageSpec) -> UInt8Array:
    if dataset in NAMES:
        try:
            images = load_dataset(dataset, download=False).test.images
        except LoupeError:  # the data set is not on this machine
            pass
        else:
            if images.shape[1:] == spec.shape:
                return images
    images = np.random.default_rng(0).integers(0, 256, (1000, *spec.shape), np.uint8)
    for rows in (images, images.swapaxes(1, 2)):
        rows[:, :MARGIN] = rows[:, -MARGIN:] = 0
    return images


def encode_npy(array: UInt8Array) -> bytes:
    """Encode an array as an `.npy` file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def save_pngs(images: UInt8Array, folder: Path) -> None:
    """Write each image as a PNG file named by its number."""
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:06d}.png").write_bytes(encode_png(image))


def make_photo(seed: int = 0) -> bytes:
    """Return a JPEG of 12 megapixels that is as hard to decode as a photo.

    It has shapes, shades and detail of every size. The same seed gives the same bytes.
    """
    rng = np.random.default_rng(seed)
    width, height = PHOTO_SIZE
    pixels = np.zeros((height, width, 3), np.float32)
    for cells, strength in ((4, 90), (32, 40), (250, 20), (1000, 10)):  # cells per row
        grid = rng.normal(0, strength, (cells * height // width, cells, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
    picture = Image.fromarray(np.clip(pixels + 140, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(40):
        ranges = ((0, width), (0, height), (50, 600))
        x, y, size = (int(rng.integers(low, high)) for low, high in ranges)
        red, green, blue = (int(shade) for shade in rng.integers(0, 256, 3))
        box = (x - size, y - size // 2, x + size, y + size // 2)
        draw.ellipse(box, outline=(red, green, blue), width=size // 20 + 1)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=PHOTO_QUALITY)
    return file.getvalue()


@dataclass(frozen=True)
class Post:
    """A POST request.

    Attributes:
        route: The path, starting with a slash.
        body: The body.
        headers: Headers besides `Host` and `Content-Length`.
    """

    route: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """Encode the request for HTTP/1.1."""
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(self.body)), **self.headers}
        lines = [f"POST {self.route} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def png_post(image: UInt8Array) -> Post:
    """Return a request with one image of the model as a PNG file."""
    return Post("/predict", encode_png(image), {"Content-Type": PNG})


def json_post(image: UInt8Array) -> Post:
    """Return a request with one image of the model as base64 in JSON."""
    body = orjson.dumps({"image": base64.b64encode(encode_png(image)).decode()})
    return Post("/predict", body, {"Content-Type": JSON})


def photo_post(photo: bytes) -> Post:
    """Return a request with one JPEG file."""
    return Post("/predict", photo, {"Content-Type": "image/jpeg"})


def npy_post(images: UInt8Array, *, accept: str) -> Post:
    """Return a request with images of the model, uint8 `(n, *shape)`, as an `.npy` file.

    Args:
        images: The images.
        accept: Media type of the response: `NPY` or `JSON`.
    """
    headers = {"Content-Type": NPY, "Accept": accept}
    return Post("/predict_batch", encode_npy(images), headers)


def binary_tensor_post(images: UInt8Array, model: StoredModel) -> Post:
    """Return an Open Inference request with images of the model as raw tensors."""
    tensor = {**_tensor(images), "parameters": {"binary_data_size": images.nbytes}}
    message = {
        "inputs": [tensor],
        "outputs": [{"name": "probabilities"}],
        "parameters": {"binary_data_output": True},
    }
    header = orjson.dumps(message)
    headers = {"Content-Type": "application/octet-stream", JSON_LENGTH: str(len(header))}
    return Post(f"/v2/models/{model.name}/infer", header + images.tobytes(), headers)


def json_tensor_post(images: UInt8Array, model: StoredModel) -> Post:
    """Return an Open Inference request with images of the model, uint8 `(n, *shape)`, in JSON."""
    tensor = {**_tensor(images), "data": images.ravel()}
    message = {"inputs": [tensor], "outputs": [{"name": "probabilities"}]}
    body = orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY)
    return Post(f"/v2/models/{model.name}/infer", body, {"Content-Type": JSON})


def _tensor(images: UInt8Array) -> dict[str, object]:
    return {"name": "images", "shape": [*images.shape], "datatype": "UINT8"}
