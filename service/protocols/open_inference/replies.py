"""Answers of the Open Inference Protocol: tensors as JSON, or raw behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from loupe.images.spec import Float32Array
from loupe.models.store import StoredModel
from service.http import replies
from service.protocols.open_inference.requests import (
    INDEX,
    JSON_LENGTH,
    LENGTH_BYTES,
    PROBABILITIES,
    Inference,
    Wanted,
)


@dataclass(frozen=True)
class Output:
    """A tensor of an answer.

    Attributes:
        datatype: As the protocol calls it.
        shape: Begins with the number of images.
        values: Row by row; texts for `BYTES`, little-endian numbers otherwise.
    """

    datatype: str
    shape: tuple[int, ...]
    values: NDArray[np.float32] | NDArray[np.int64] | list[str]

    def raw(self) -> bytes:
        """The values as binary tensors have them: before each text, its length."""
        if not isinstance(self.values, list):
            return self.values.tobytes()
        texts = [text.encode() for text in self.values]
        return b"".join(len(text).to_bytes(LENGTH_BYTES, "little") + text for text in texts)


def answer(model: StoredModel, inference: Inference, probabilities: Float32Array) -> Response:
    """The answer to a request; `probabilities` is float32 of shape `(n, classes)`."""
    outputs: list[dict[str, object]] = []
    tensors: list[bytes] = []
    for wanted in inference.outputs:
        output = compute(wanted, model.card.class_names, probabilities)
        described: dict[str, object] = {
            "name": wanted.name,
            "shape": output.shape,
            "datatype": output.datatype,
        }
        if wanted.binary:
            tensors.append(output.raw())
            described["parameters"] = {"binary_data_size": len(tensors[-1])}
        else:
            described["data"] = output.values
        outputs.append(described)
    named = {} if inference.id is None else {"id": inference.id}
    content = {
        "model_name": model.name,
        "model_version": model.version,
        **named,
        "outputs": outputs,
    }
    if not any(wanted.binary for wanted in inference.outputs):
        return replies.json(content)
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {JSON_LENGTH: str(len(head))}
    return Response(b"".join([head, *tensors]), 200, headers, media_type="application/octet-stream")


def compute(wanted: Wanted, class_names: Sequence[str], probabilities: Float32Array) -> Output:
    """An output, of probabilities that are float32 of shape `(n, classes)`."""
    if wanted.classes is not None:
        return _classification(wanted.classes, class_names, probabilities)
    if wanted.name == PROBABILITIES:
        return Output("FP32", probabilities.shape, probabilities.astype("<f4", copy=False).ravel())
    index = probabilities.argmax(axis=1).astype("<i8", copy=False)
    if wanted.name == INDEX:
        return Output("INT64", index.shape, index)
    return Output("BYTES", index.shape, [class_names[place] for place in index.tolist()])


def _classification(count: int, class_names: Sequence[str], probabilities: Float32Array) -> Output:
    """The most probable classes, from the first on, as `probability:index:label`.

    Source: Triton's classification extension, docs/protocol/extension_classification.md; six decimals, as Triton writes them.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    highest = np.take_along_axis(probabilities, best, axis=1)
    pairs = zip(highest.ravel().tolist(), best.ravel().tolist(), strict=True)
    return Output(
        "BYTES", best.shape, [f"{value:.6f}:{index}:{class_names[index]}" for value, index in pairs]
    )
