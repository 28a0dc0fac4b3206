"""The requests that are made again and again."""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import orjson
from PIL import Image

from loupe.images import SIDE, UInt8Array

JSON, NPY, PNG, JPEG, BYTES = (
    "application/json",
    "application/x-npy",
    "image/png",
    "image/jpeg",
    "application/octet-stream",
)


@dataclass(frozen=True)
class Post:
    """A request.

    Attributes:
        route: Where to, from the slash on.
        body: What is sent.
        headers: Beside those that every request has.
    """

    route: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self) -> bytes:
        """The request as HTTP/1.1 has it."""
        headers = {"Host": "127.0.0.1", "Content-Length": str(len(self.body)), **self.headers}
        lines = [f"POST {self.route} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


def png(image: UInt8Array) -> Post:
    """One image, uint8 `(28, 28)`, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return Post("/predict", file.getvalue(), {"Content-Type": PNG})


def png_in_json(image: UInt8Array) -> Post:
    """One image, uint8 `(28, 28)`, as base64 in JSON."""
    body = orjson.dumps({"image": base64.b64encode(png(image).body).decode()})
    return Post("/predict", body, {"Content-Type": JSON})


def jpeg(photo: bytes) -> Post:
    """One picture, a JPEG file."""
    return Post("/predict", photo, {"Content-Type": JPEG})


def npy(images: UInt8Array, *, accept: str) -> Post:
    """Many images, uint8 `(n, 28, 28)`, as an `.npy` file, whose answer is to be `.npy` or JSON."""
    file = io.BytesIO()
    np.save(file, images)
    return Post("/predict_batch", file.getvalue(), {"Content-Type": NPY, "Accept": accept})


def binary_tensor(images: UInt8Array, model: str) -> Post:
    """Many images, uint8 `(n, 28, 28)`, for the Open Inference Protocol: raw tensors there and back."""
    tensor = {**_tensor(images), "parameters": {"binary_data_size": images.nbytes}}
    header = orjson.dumps({"inputs": [tensor], "outputs": [_PROBABILITIES], "parameters": {"binary_data_output": True}})
    headers = {"Content-Type": BYTES, "Inference-Header-Content-Length": str(len(header))}
    return Post(_infer_route(model), header + images.tobytes(), headers)


def json_tensor(images: UInt8Array, model: str) -> Post:
    """The same in JSON."""
    tensor = {**_tensor(images), "data": images.ravel()}
    body = orjson.dumps({"inputs": [tensor], "outputs": [_PROBABILITIES]}, option=orjson.OPT_SERIALIZE_NUMPY)
    return Post(_infer_route(model), body, {"Content-Type": JSON})


_PROBABILITIES = {"name": "probabilities"}


def _tensor(images: UInt8Array) -> dict[str, object]:
    return {"name": "images", "shape": [len(images), SIDE, SIDE], "datatype": "UINT8"}


def _infer_route(model: str) -> str:
    return f"/v2/models/{model.partition(':')[0]}/infer"
