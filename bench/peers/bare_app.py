"""The baseline: Starlette and ONNX Runtime without batching, checks or metrics.

Run it with `python -m bench.peers.bare_app MODEL_FOLDER PORT`. Other peers share its model and its
answer, so that all of them do the same work.
"""

import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


class BareModel:
    """A stored model on ONNX Runtime.

    Args:
        folder: Folder with `model.onnx` and `card.json`.
        threads: Threads per run. For single images, a second thread starts too late to help.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        path = folder / "model.onnx"
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.class_names = read_class_names(folder)

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model: uint8 `(n, 28, 28)` → probabilities, float32 `(n, classes)`."""
        probabilities: NDArray[np.float32] = self._session.run(None, {self._input: images})[0]
        return probabilities


def read_class_names(folder: Path) -> list[str]:
    """Read the class names from a model's card."""
    class_names: list[str] = json.loads((folder / "card.json").read_text())["class_names"]
    return class_names


def decode(png: bytes) -> NDArray[np.uint8]:
    """Decode a PNG file to uint8 `(28, 28)`."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def make_response(class_names: Sequence[str], probabilities: NDArray[np.float32]) -> Response:
    """Encode one image's probabilities, float32 `(classes,)`, as Loupe's answer in JSON."""
    index = int(probabilities.argmax())
    answer = {
        "label": class_names[index],
        "index": index,
        "confidence": probabilities[index],
        "probabilities": dict(zip(class_names, probabilities, strict=True)),
    }
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


def make_app(folder: Path) -> Starlette:
    """Create an app whose `POST /predict` takes a PNG of 28 × 28 pixels."""
    model = BareModel(folder)

    async def predict(request: Request) -> Response:
        image = decode(await request.body())
        return make_response(model.class_names, model.predict(image[None])[0])

    async def ready(request: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


if __name__ == "__main__":
    uvicorn.run(
        make_app(Path(sys.argv[1])),
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
