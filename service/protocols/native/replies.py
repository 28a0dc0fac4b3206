"""Bodies of the answers of `/predict` and `/predict_batch`."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from starlette.responses import Response

from loupe.images.looks.ink import Box
from loupe.images.spec import Float32Array, UInt8Array
from loupe.images.steps import Step
from loupe.models.answers import Answer
from service.http import replies
from service.prediction.decoding import DecodedImages

NPY = "application/x-npy"


@dataclass(frozen=True)
class Explanation:
    """What the model saw of a picture.

    Attributes:
        seen: uint8, of the model's shape.
        steps: How it was made from the picture.
        saliency: What counted in it, uint8 RGB; see `loupe.models.saliency.draw`.
    """

    seen: UInt8Array
    steps: list[Step]
    saliency: UInt8Array | None = None

    def to_json(self) -> dict[str, object]:
        """Return the fields of the answer."""
        content: dict[str, object] = {"seen": _png(self.seen), "steps": self.steps}
        if self.saliency is not None:
            content["saliency"] = _png(self.saliency)
        return content


def prediction(model: str, answer: Answer, explanation: Explanation | None = None) -> Response:
    """Return the answer to one image."""
    content: dict[str, object] = {"model": model, **answer}
    if explanation is not None:
        content |= explanation.to_json()
    return replies.json(content)


def _png(image: UInt8Array) -> str:
    """Return an image, uint8 `(height, width)` or `(height, width, 3)`, as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def predictions(model: str, decoded: DecodedImages, answers: Iterator[Answer]) -> Response:
    """Return answers and errors in the order of the request; `answers` has no errors."""
    content: list[object] = []
    for index in range(len(decoded)):
        if index in decoded.errors:
            content.append(decoded.errors[index].to_json())
        elif decoded.boxes is None:
            content.append(next(answers))
        else:
            boxes = decoded.boxes[index]
            content.append({"predictions": [{**next(answers), "box": box} for box in boxes]})
    return replies.json({"model": model, "predictions": content})


def symbols(model: str, boxes: Sequence[Box], answers: Iterable[Answer]) -> Response:
    """Return the answers to the symbols of one picture, with their boxes, in their order."""
    content = [{**answer, "box": box} for answer, box in zip(answers, boxes, strict=True)]
    return replies.json({"model": model, "predictions": content})


def npy(model: str, probabilities: Float32Array) -> Response:
    """Return the probabilities, float32 `(n, classes)`, as an `.npy` file."""
    file = io.BytesIO()
    np.save(file, probabilities, allow_pickle=False)
    return Response(file.getvalue(), 200, {replies.MODEL_HEADER: model}, media_type=NPY)
