"""Requests with the check of their responses, and the reference answers to check against."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

import numpy as np

from bench.inputs import find_images
from bench.service.open_loop import Reply
from loupe.drawing import encode_png
from loupe.images.normalize import has_light_ground
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.card import ModelCard
from loupe.models.engines.engine import Outputs
from loupe.models.engines.loading import load_engine
from loupe.models.store import StoredModel

IMAGES = 64
BOUNDARY = "fuzz-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

# Returns a description of the fault in a response, or `None`.
Check: TypeAlias = Callable[[Reply], str | None]


@dataclass(frozen=True)
class Request:
    """A request and the check of its response.

    Attributes:
        method: The HTTP method.
        target: Path and query.
        headers: Headers besides `Host` and the length of the body.
        body: The body.
        check: Applied to the response, unless its status is in `REFUSALS`.
        host: The header `Host`.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    check: Check
    host: str = "127.0.0.1"

    def encoded(self) -> bytes:
        """Encode the request for HTTP/1.1."""
        return self.head(("Content-Length", str(len(self.body)))) + self.body

    def head(self, *more: tuple[str, str]) -> bytes:
        """Encode the request line and all headers."""
        headers = (("Host", self.host), *self.headers, *more)
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass(frozen=True)
class Reference:
    """A model and its answers to some images.

    Attributes:
        model: The model that the service answers with.
        images: uint8, `(n, *card.input.shape)`; grey ones are on a dark background, so that
            normalizing keeps them. One is black: it has no ink, if the model looks for ink.
        pngs: The same images as PNG files.
        outputs: What the model computes for them.
    """

    model: StoredModel
    images: UInt8Array
    pngs: Sequence[bytes]
    outputs: Outputs

    @property
    def probabilities(self) -> Float32Array:
        """The probabilities of the images, float32 `(n, classes)`."""
        return self.outputs.probabilities

    def is_blank(self, number: int) -> bool:
        """Return whether an image must get no label, because it has no ink."""
        return self.card.input.look == "ink" and not self.images[number].any()

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.model.card


# Creates a random request of one kind.
Factory: TypeAlias = Callable[[Random, Reference], Request]


def make_reference(model: StoredModel) -> Reference:
    """Run the model directly on images like those it was trained on."""
    found = find_images(model, 2 * IMAGES)
    if model.card.input.look != "photo":
        found = np.stack([image for image in found if not has_light_ground(image)])
    images = found[:IMAGES].copy()
    images[-1] = 0
    engine = load_engine(model, threads=1)
    return Reference(model, images, [encode_png(image) for image in images], engine.run(images))


def post(target: str, content_type: str, body: bytes, check: Check) -> Request:
    """Return a POST request whose only header is its content type."""
    return Request("POST", target, (("Content-Type", content_type),), body, check)


def encode_base64(data: bytes) -> str:
    """Encode bytes for JSON."""
    return base64.b64encode(data).decode()


def encode_form(name: str, files: Sequence[bytes]) -> bytes:
    """Encode files as parts of one form field."""
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="a.png"'
    head = f"--{BOUNDARY}\r\n{disposition}\r\n\r\n".encode()
    parts = b"".join(head + file + b"\r\n" for file in files)
    return parts + f"--{BOUNDARY}--\r\n".encode()
