"""Bodies of the answers of `/predict` and `/predict_batch`."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from starlette.responses import Response

from loupe.images.looks.ink import Box
from loupe.images.spec import Float32Array, UInt8Array
from loupe.images.steps import Step
from loupe.models.answers import Answer, answer
from service.http import replies
from service.http.options import PredictQuery
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


def prediction(
    model: str,
    class_names: Sequence[str],
    probabilities: Float32Array,
    options: PredictQuery,
    explanation: Explanation | None = None,
    *,
    blank: bool = False,
) -> Response:
    """Return the answer to one image; `probabilities` is float32 `(classes,)`."""
    content: dict[str, object] = {
        "model": model,
        **answer(class_names, probabilities, options, blank=blank),
    }
    if explanation is not None:
        content |= explanation.to_json()
    return replies.json(content)


def _png(image: UInt8Array) -> str:
    """Return an image, uint8 `(height, width)` or `(height, width, 3)`, as PNG in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def predictions(
    model: str,
    class_names: Sequence[str],
    decoded: DecodedImages,
    probabilities: Float32Array,
    options: PredictQuery,
    blank: Iterable[bool],
) -> Response:
    """Return answers and errors in the order of the request.

    `probabilities` is float32 `(n, classes)` of the images that could be read, and `blank` says
    which of these have no ink.
    """
    rows = zip(probabilities, blank, strict=True)

    def next_answer() -> Answer:
        row, is_blank = next(rows)
        return answer(class_names, row, options, blank=is_blank)

    answers: list[object] = []
    for index in range(len(decoded)):
        if index in decoded.errors:
            answers.append(decoded.errors[index].to_json())
        elif decoded.boxes is None:
            answers.append(next_answer())
        else:
            boxes = decoded.boxes[index]
            answers.append({"predictions": [{**next_answer(), "box": box} for box in boxes]})
    return replies.json({"model": model, "predictions": answers})


def symbols(
    model: str,
    class_names: Sequence[str],
    boxes: Sequence[Box],
    probabilities: Float32Array,
    options: PredictQuery,
) -> Response:
    """Return the answers to the symbols of one picture, with their boxes, in their order.

    `probabilities` is float32 `(len(boxes), classes)`.
    """
    answers = [
        {**answer(class_names, row, options), "box": box}
        for row, box in zip(probabilities, boxes, strict=True)
    ]
    return replies.json({"model": model, "predictions": answers})


def npy(model: str, probabilities: Float32Array) -> Response:
    """Return the probabilities, float32 `(n, classes)`, as an `.npy` file."""
    file = io.BytesIO()
    np.save(file, probabilities, allow_pickle=False)
    return Response(file.getvalue(), 200, {replies.MODEL_HEADER: model}, media_type=NPY)
