"""The bound to chase: Starlette and ONNX Runtime, which batch, check and count nothing."""

import io
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loupe.card import ModelCard
from loupe.store import ONNX_FILE


def make_app(folder: Path) -> Starlette:
    """An app whose `POST /predict` takes a PNG of 28x28 and answers as Loupe does.

    Args:
        folder: Where the model's files are.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # a single image is done before a second thread has woken
    session = ort.InferenceSession(folder / ONNX_FILE, options, providers=["CPUExecutionProvider"])
    input_name = session.get_inputs()[0].name
    class_names = ModelCard.load(folder).class_names

    async def predict(request: Request) -> Response:
        image = np.asarray(Image.open(io.BytesIO(await request.body())).convert("L"))
        probabilities = session.run(None, {input_name: image[None]})[0][0]
        index = int(probabilities.argmax())
        answer = {
            "label": class_names[index],
            "index": index,
            "confidence": probabilities[index],
            "probabilities": dict(zip(class_names, probabilities, strict=True)),
        }
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

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
