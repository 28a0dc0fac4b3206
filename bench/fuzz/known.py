"""What a model says of some images, and requests that hold its service to it."""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import numpy as np
from PIL import Image

from bench.connection import Reply
from bench.pictures import find_images
from loupe.card import ModelCard
from loupe.engine import load_engine
from loupe.images import Float32Array, UInt8Array, has_light_ground
from loupe.store import StoredModel

IMAGES = 64
JSON_LENGTH = "Inference-Header-Content-Length"
BOUNDARY = "fuzz-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
JSON, NPY, PNG = "application/json", "application/x-npy", "image/png"

# Says what is wrong with an answer, if anything is.
Check: TypeAlias = Callable[[Reply], str | None]


@dataclass(frozen=True)
class Request:
    """A request, and what its answer has to be.

    Attributes:
        method: Of HTTP.
        target: Path and query.
        headers: Beside the host, and the length of a body.
        body: What is sent.
        check: Of the answer, unless it is 429, 503 or 504, which any request may get.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    check: Check

    def encoded(self) -> bytes:
        """As HTTP/1.1 has it."""
        return self.head(("Content-Length", str(len(self.body)))) + self.body

    def head(self, *more: tuple[str, str]) -> bytes:
        """All that comes before the body."""
        headers = (("Host", "127.0.0.1"), *self.headers, *more)
        lines = [f"{self.method} {self.target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Known:
    """A model, and what it says of some images.

    Attributes:
        model: What the service answers with.
        images: uint8, shape `(n, 28, 28)`, on a dark ground: no preparation changes them.
        pngs: The same as files.
        probabilities: float32, shape `(n, classes)`.
    """

    model: StoredModel
    images: UInt8Array
    pngs: Sequence[bytes]
    probabilities: Float32Array

    @property
    def card(self) -> ModelCard:
        """Of the model."""
        return self.model.card


def learn(model: StoredModel) -> Known:
    """What a model says of images of the kind it was trained on, asked directly."""
    images = np.stack([image for image in find_images(model, 2 * IMAGES) if not has_light_ground(image)][:IMAGES])
    return Known(model, images, [picture(image) for image in images], load_engine(model, threads=1).predict(images))


def picture(image: UInt8Array, kind: str = "PNG") -> bytes:
    """An image as a file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def npy(array: UInt8Array) -> bytes:
    """An array as a file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def b64(data: bytes) -> str:
    """As JSON carries bytes."""
    return base64.b64encode(data).decode()


def form(name: str, files: Sequence[bytes]) -> bytes:
    """Files of one field, as a form carries them."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a.png"\r\n\r\n'.encode()
    return b"".join(head + file + b"\r\n" for file in files) + f"--{BOUNDARY}--\r\n".encode()


# Makes the requests of one kind.
Maker: TypeAlias = Callable[[Random, Known], Request]
