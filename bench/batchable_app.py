"""A peer: the same service on BentoML's own adaptive batching, tuned as far as its public parameters go."""

import gc
import io
from typing import ClassVar

import bentoml
import numpy as np
import orjson
from PIL import Image
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from loupe.cores import available_cores
from loupe.engine import load_engine
from loupe.images import Float32Array, UInt8Array
from loupe.settings import load_settings
from loupe.store import find_model


class _PngRequest(bentoml.IODescriptor):  # type: ignore[misc]
    """A PNG body, decoded before it joins a batch."""

    __root_input__ = True

    image: str = Field(default="")

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> UInt8Array:
        return np.asarray(Image.open(io.BytesIO(await request.body())).convert("L"))[None]


class _Answer(bentoml.IODescriptor):  # type: ignore[misc]
    """Probabilities as Loupe answers them."""

    label: str
    class_names: ClassVar[tuple[str, ...]] = ()  # of the one model

    @classmethod
    async def to_http_response(cls, obj: Float32Array, serde: object) -> Response:
        class_names = cls.class_names
        index = int(obj[0].argmax())
        answer = {
            "label": class_names[index],
            "index": index,
            "confidence": obj[0, index],
            "probabilities": dict(zip(class_names, obj[0], strict=True)),
        }
        return Response(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")


@bentoml.service(
    name="batchable",
    workers=1,
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Batchable:
    """Classifies single PNGs."""

    def __init__(self) -> None:
        stored = find_model(load_settings().default_tag)
        self._engine = load_engine(stored, threads=max(1, available_cores() - 1))
        _Answer.class_names = stored.card.class_names

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def tune(self) -> None:
        """Spare requests the full collections, as Loupe does."""
        gc.collect()
        gc.freeze()

    @bentoml.api(  # type: ignore[untyped-decorator]
        batchable=True, max_batch_size=256, max_latency_ms=10_000, input_spec=_PngRequest, output_spec=_Answer
    )
    def predict(self, images: UInt8Array) -> Float32Array:
        """Class probabilities: uint8 `(n, 28, 28)` → float32 `(n, classes)`."""
        return self._engine.predict(images)
