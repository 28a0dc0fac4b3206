"""Bodies of the answers of `/predict` and `/predict_batch`."""

import io
from collections.abc import Sequence

import numpy as np
from starlette.responses import Response

from loupe.images.spec import Float32Array
from service.http import replies
from service.http.options import PredictQuery
from service.prediction.decoding import DecodedImages

NPY = "application/x-npy"


def prediction(
    model: str, class_names: Sequence[str], probabilities: Float32Array, options: PredictQuery
) -> Response:
    """Return the answer to one image; `probabilities` is float32 `(classes,)`."""
    return replies.json({"model": model, **_prediction(class_names, probabilities, options)})


def predictions(
    model: str,
    class_names: Sequence[str],
    decoded: DecodedImages,
    probabilities: Float32Array,
    options: PredictQuery,
) -> Response:
    """Return answers and errors in the order of the request.

    `probabilities` is float32 `(n, classes)` of the images that could be read.
    """
    rows = iter(probabilities)
    answers = [
        decoded.errors[index].to_json()
        if index in decoded.errors
        else _prediction(class_names, next(rows), options)
        for index in range(len(decoded))
    ]
    return replies.json({"model": model, "predictions": answers})


def npy(model: str, probabilities: Float32Array) -> Response:
    """Return the probabilities, float32 `(n, classes)`, as an `.npy` file."""
    file = io.BytesIO()
    np.save(file, probabilities, allow_pickle=False)
    return Response(file.getvalue(), 200, {replies.MODEL_HEADER: model}, media_type=NPY)


def _prediction(
    class_names: Sequence[str], probabilities: Float32Array, options: PredictQuery
) -> dict[str, object]:
    index = int(probabilities.argmax())
    confidence = probabilities[index]
    answer: dict[str, object] = {
        "label": class_names[index],
        "index": index,
        "confidence": confidence,
    }
    if options.threshold is not None:
        abstained = bool(confidence < options.threshold)
        if abstained:
            answer |= {"label": None, "index": None}
        answer["abstained"] = abstained
    if options.top_k is None:
        answer["probabilities"] = dict(zip(class_names, probabilities, strict=True))
    else:
        best = np.argsort(-probabilities, kind="stable")[: options.top_k]
        answer["probabilities"] = {class_names[each]: probabilities[each] for each in best}
    return answer
