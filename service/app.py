"""The Bento service: its routes, its beginning and its end."""

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import bentoml
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from loupe.settings import load_settings, traces_wanted
from service import health
from service.http import replies
from service.http.guard import Guard
from service.http.logs import set_up_log
from service.http.not_found import Unrouted
from service.jobs import api as jobs_api
from service.prediction.predictor import Call, Predictor, Routes, route
from service.protocols import tensorflow_serving
from service.protocols.native import api as native
from service.protocols.open_inference import rest as open_inference
from service.web import pages

TRACED = traces_wanted(os.environ)
if TRACED:  # what it needs takes a while to import, and is an extra
    from service.tracing import TracedGuard, TracedPredictor

if TYPE_CHECKING:
    from service.protocols.open_inference.grpc_server import GrpcServer

# How soon the engine's thread gets the interpreter; Python's 5 ms is longer than most answers take.
SWITCH_SECONDS = 0.0005


class _RequestSpec(bentoml.IODescriptor):  # type: ignore[misc]
    """Hands the request through as it is; the fields of the subclasses are for BentoML's clients, which ask for `/schema.json`."""

    __root_input__ = True

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Request:
        return request


class ImageRequest(_RequestSpec):
    """One picture of any size."""

    image: Path = Field(description="PNG, JPEG, WebP, BMP, GIF or TIFF")


class BatchRequest(_RequestSpec):
    """Many pictures of any size."""

    images: list[Path] = Field(description="PNG, JPEG, WebP, BMP, GIF or TIFF each")


class Prediction(bentoml.IODescriptor):  # type: ignore[misc]
    """The answer to one picture."""

    model: str = Field(description="Full tag of the model that answered")
    label: str
    index: int
    confidence: float = Field(description="Probability of the label, 0..1")
    probabilities: dict[str, float] = Field(description="By class name; they sum to 1")


class Predictions(bentoml.IODescriptor):  # type: ignore[misc]
    """The answers to a batch, in its order; a picture that cannot be read gets `error` and `code` instead."""

    model: str = Field(description="Full tag of the model that answered")
    predictions: list[dict[str, object]]


async def schema(call: Call) -> Response:
    """What BentoML's clients ask for."""
    return replies.json(Loupe.schema())  # type: ignore[attr-defined]


# All that is asked over HTTP is answered by these, before BentoML's own routes: its way to an answer takes as long as the answer.
routes = Routes(
    [
        *native.ROUTES,
        *jobs_api.ROUTES,
        *open_inference.ROUTES,
        *tensorflow_serving.ROUTES,
        *health.ROUTES,
        *pages.ROUTES,
        route("GET", "/schema.json", "bentoml", schema),
        Unrouted(),
    ]
)


@bentoml.service(
    name="loupe",
    workers=1,
    traffic={"timeout": 30},  # seconds; every request leaves a timer behind for so long
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},  # ours cost less and tell more
    tracing={"excluded_urls": ".*"},
)
class Loupe:
    """Classifies small images.

    Raises:
        ModelNotFound: If the store has no model to serve by default.
        InvalidSetting: If an environment variable has a value it cannot have.
    """

    def __init__(self) -> None:
        settings = load_settings()
        self._predictor = routes.predictor = (
            TracedPredictor(settings) if TRACED else Predictor(settings)
        )
        self._following: asyncio.Task[None] | None = None
        self._grpc: GrpcServer | None = None

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def tune(self) -> None:
        """Tune the interpreter for many short requests, now that everything is loaded, and follow the store.

        Raises:
            GrpcUnavailable: If a port for gRPC is set, and gRPC is not installed.
            ProgramFailed: If something listens there already.
        """
        set_up_log(self._predictor.settings.log_format)
        if self._predictor.settings.grpc_port is not None:
            from service.protocols.open_inference.grpc_server import GrpcServer

            self._grpc = GrpcServer(self._predictor, self._predictor.settings.grpc_port)
            await self._grpc.start()
        gc.collect()
        gc.freeze()  # full collections would walk through all that was imported, and stall requests for it
        sys.setswitchinterval(SWITCH_SECONDS)
        self._following = asyncio.create_task(
            self._predictor.models.follow(), name="follow the store"
        )

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Answer what waits."""
        self._predictor.stopping = True
        if self._following is not None:
            self._following.cancel()
        if self._grpc is not None:
            await self._grpc.stop()  # before the models that its calls wait for
        await self._predictor.close()

    @bentoml.api(route="/predict", input_spec=ImageRequest, output_spec=Prediction)  # type: ignore[untyped-decorator]
    async def predict(self, request: Request) -> Response:
        """Class of one image.

        Takes an image body (`Content-Type: image/png` …), `multipart/form-data` with a field `image`, or JSON
        `{"image": "<base64>"}` or `{"pixels": [[…28 rows of 28…]]}`. Query parameters: `model`, `top_k`, `threshold`, `normalize`, `lang`.
        """
        return await self._predictor.respond(native.PROTOCOL, request, native.predict)

    @bentoml.api(route="/predict_batch", input_spec=BatchRequest, output_spec=Predictions)  # type: ignore[untyped-decorator]
    async def predict_batch(self, request: Request) -> Response:
        """Classes of many images.

        Takes `multipart/form-data` with fields `images`, JSON `{"images": ["<base64>", …]}`, or an `.npy` body of uint8
        `(n, 28, 28)`. Query parameters as for `/predict`.
        """
        return await self._predictor.respond(native.PROTOCOL, request, native.predict_batch)


Loupe.add_asgi_middleware(TracedGuard if TRACED else Guard, answers=routes)  # type: ignore[attr-defined]
