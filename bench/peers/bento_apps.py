"""Peers on BentoML's adaptive batching. `BENCH_MODEL_FOLDER` is the folder of the model.

`Batchable` is tuned as far as BentoML's public options allow. `TwoServices` has the layout of
BentoML's documentation: an API service in front of a batchable model service.
Source: https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

import gc
import os
from pathlib import Path
from typing import ClassVar

import bentoml
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from bench.peers.bare_app import BareModel, decode, make_response, read_class_names

MAX_LATENCY_MS = 10_000  # never cancels a batch for being late


def _model_folder() -> Path:
    return Path(os.environ["BENCH_MODEL_FOLDER"])


def _load_model() -> BareModel:
    """Load the model with all cores but one, which the server needs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return BareModel(_model_folder(), threads=max(1, (cores or 1) - 1))


class _PngRequest(bentoml.IODescriptor):  # type: ignore[misc]
    """A PNG body, decoded before it joins a batch."""

    __root_input__ = True

    image: str = Field(default="")

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> NDArray[np.uint8]:
        return decode(await request.body())[None]


class _Answer(bentoml.IODescriptor):  # type: ignore[misc]
    """The answer that Loupe gives."""

    label: str
    class_names: ClassVar[list[str]] = []

    @classmethod
    async def to_http_response(cls, obj: NDArray[np.float32], serde: object) -> Response:
        return make_response(cls.class_names, obj[0])


@bentoml.service(
    name="batchable",
    workers=1,
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Batchable:
    """Classifies single PNGs in one tuned service."""

    def __init__(self) -> None:
        self._model = _load_model()
        _Answer.class_names = self._model.class_names

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def tune(self) -> None:
        """Exclude loaded objects from garbage collection, as Loupe does."""
        gc.collect()
        gc.freeze()

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True,
        max_batch_size=256,
        max_latency_ms=MAX_LATENCY_MS,
        input_spec=_PngRequest,
        output_spec=_Answer,
    )
    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model: uint8 `(n, 28, 28)` → probabilities, float32 `(n, classes)`."""
        return self._model.predict(images)


BATCHED = bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=MAX_LATENCY_MS)


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class BatchedModel:
    """Runs the model on batches from many requests."""

    def __init__(self) -> None:
        self._model = _load_model()

    @BATCHED  # type: ignore[untyped-decorator]
    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model: uint8 `(n, 28, 28)` → probabilities, float32 `(n, classes)`."""
        return self._model.predict(images)


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class TwoServices:
    """Classifies single PNGs with the help of `BatchedModel`."""

    model = bentoml.depends(BatchedModel)

    def __init__(self) -> None:
        self._class_names = read_class_names(_model_folder())

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, image: Image, /) -> dict[str, object]:
        """Classify one image."""
        pixels = np.asarray(image.convert("L"))[None]  # (1, 28, 28)
        probabilities = (await self.model.to_async.predict(pixels))[0].tolist()
        index = int(np.argmax(probabilities))
        return {
            "label": self._class_names[index],
            "index": index,
            "confidence": probabilities[index],
            "probabilities": dict(zip(self._class_names, probabilities, strict=True)),
        }
