"""A peer: the same service on LitServe with dynamic batching, in the settings that did best here."""

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import litserve
import numpy as np
import onnxruntime as ort
import orjson
from fastapi import Body
from PIL import Image
from starlette.responses import Response

from loupe.card import ModelCard
from loupe.images import Float32Array, UInt8Array
from loupe.store import ONNX_FILE

MAX_BATCH_SIZE = 16  # as many as there are callers: a batch leaves when it is full
BATCH_TIMEOUT_SECONDS = 0.01  # with shorter ones batches were smaller; with 0 the worker never sleeps


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Classifies single PNGs.

    Args:
        folder: Where the model's files are.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_SECONDS)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Load the model, in the worker process."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # the other process needs the other core
        path = self._folder / ONNX_FILE
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._class_names = ModelCard.load(self._folder).class_names

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/png")]) -> UInt8Array:
        """A PNG → uint8 `(28, 28)`."""
        return np.asarray(Image.open(io.BytesIO(request)).convert("L"))

    def batch(self, inputs: Sequence[UInt8Array]) -> UInt8Array:
        """→ uint8 `(n, 28, 28)`."""
        return np.stack(inputs)

    def predict(self, x: UInt8Array) -> Float32Array:
        """→ float32 `(n, classes)`."""
        probabilities: Float32Array = self._session.run(None, {self._input: x})[0]
        return probabilities

    def unbatch(self, output: Float32Array) -> list[Float32Array]:
        """→ float32 `(classes,)` each."""
        return list(output)

    def encode_response(self, output: Float32Array) -> Response:
        """The answer as Loupe writes it."""
        index = int(output.argmax())
        answer = {
            "label": self._class_names[index],
            "index": index,
            "confidence": output[index],
            "probabilities": dict(zip(self._class_names, output, strict=True)),
        }
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(Path(sys.argv[1])),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
        healthcheck_path="/readyz",
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
