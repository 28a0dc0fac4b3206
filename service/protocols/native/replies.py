"""Bodies of the answers of `/predict` and `/predict_batch`."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from starlette.responses import Response

from loupe.drawing import png_in_base64
from loupe.images.looks.ink import Box
from loupe.images.spec import Float32Array, UInt8Array
from loupe.images.steps import Step
from loupe.models.answers import Answer, Neighbour
from service.http import replies
from service.prediction.decoding import DecodedImages

NPY = "application/x-npy"


@dataclass(frozen=True)
class Explanation:
    """The image that the model saw, and how it was made.

    Attributes:
        seen: uint8, of the model's shape.
        steps: How it was made from the picture.
        more: Further fields of the answer.
    """

    seen: UInt8Array
    steps: list[Step]
    more: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the fields of the answer."""
        return {"seen": png_in_base64(self.seen), "steps": self.steps, **self.more}


def prediction(model: str, answer: Answer, explanation: Explanation | None = None) -> Response:
    """Return the answer to one image."""
    content: dict[str, object] = {"model": model, **answer}
    if explanation is not None:
        content |= explanation.to_json()
    return replies.json(content)


def neighbours(found: list[Neighbour] | None) -> list[object] | None:
    """Return training pictures as fields of an answer."""
    if found is None:
        return None
    return [{**vars(each), "image": png_in_base64(each.image)} for each in found]


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
