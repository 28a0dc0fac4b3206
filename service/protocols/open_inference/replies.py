"""Answers of the Open Inference Protocol: output tensors, in JSON or raw after it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from loupe.images.spec import Float32Array
from loupe.models.engines.engine import Outputs
from loupe.models.store import StoredModel
from service.http import replies
from service.protocols.open_inference.requests import (
    FAMILIARITY,
    INDEX,
    JSON_LENGTH,
    PROBABILITIES,
    InferenceRequest,
    RequestedOutput,
)
from service.protocols.open_inference.tensors import LENGTH_BYTES

NO_INDEX = -1  # of a picture without ink


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of an answer.

    Attributes:
        datatype: Name in the protocol.
        shape: Begins with the number of images.
        values: Row by row; texts for `BYTES`, little-endian numbers otherwise.
    """

    datatype: str
    shape: tuple[int, ...]
    values: NDArray[np.float32] | NDArray[np.int64] | list[str]

    def raw(self) -> bytes:
        """Return the values as a binary tensor, each text after its length."""
        if not isinstance(self.values, list):
            return self.values.tobytes()
        texts = [text.encode() for text in self.values]
        return b"".join(len(text).to_bytes(LENGTH_BYTES, "little") + text for text in texts)


def compute(
    output: RequestedOutput,
    class_names: Sequence[str],
    outputs: Outputs,
    blank: NDArray[np.bool_],
) -> OutputTensor:
    """Compute an output of the answer from those of the engine.

    Images that are `blank`, of shape `(n,)`, have an empty label and the index -1.
    """
    probabilities, familiarity = outputs
    count = output.parameters.classification
    if count is not None:
        return _classify(count, class_names, probabilities)
    if output.name == PROBABILITIES:
        values = probabilities.astype("<f4", copy=False).ravel()
        return OutputTensor("FP32", probabilities.shape, values)
    if output.name == FAMILIARITY:
        return OutputTensor("FP32", familiarity.shape, familiarity.astype("<f4", order="C"))
    index = np.where(blank, NO_INDEX, probabilities.argmax(axis=1)).astype("<i8", copy=False)
    if output.name == INDEX:
        return OutputTensor("INT64", index.shape, index)
    labels = ["" if each == NO_INDEX else class_names[each] for each in index.tolist()]
    return OutputTensor("BYTES", index.shape, labels)


def answer(
    model: StoredModel,
    request: InferenceRequest,
    computed: Outputs,
    blank: NDArray[np.bool_],
) -> Response:
    """Return the answer over REST; see `compute`."""
    outputs: list[dict[str, object]] = []
    raw: list[bytes] = []
    for output in request.requested_outputs(familiarity=computed.known):
        tensor = compute(output, model.card.class_names, computed, blank)
        described = {"name": output.name, "shape": tensor.shape, "datatype": tensor.datatype}
        if request.is_binary(output):
            raw.append(tensor.raw())
            outputs.append({**described, "parameters": {"binary_data_size": len(raw[-1])}})
        else:
            outputs.append({**described, "data": tensor.values})
    content = {
        "model_name": model.name,
        "model_version": model.version,
        **({} if request.id is None else {"id": request.id}),
        "outputs": outputs,
    }
    if not raw:
        return replies.json(content)
    head = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    headers = {JSON_LENGTH: str(len(head))}
    return Response(b"".join([head, *raw]), 200, headers, media_type="application/octet-stream")


def _classify(count: int, class_names: Sequence[str], probabilities: Float32Array) -> OutputTensor:
    """Return the `count` most probable classes as `probability:index:label`.

    Source: Triton, docs/protocol/extension_classification.md; six decimals, as Triton writes them.
    """
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    highest = np.take_along_axis(probabilities, best, axis=1)
    pairs = zip(highest.ravel().tolist(), best.ravel().tolist(), strict=True)
    texts = [f"{value:.6f}:{index}:{class_names[index]}" for value, index in pairs]
    return OutputTensor("BYTES", best.shape, texts)
