"""The Bento service. Models are loaded once, when the process starts; everything else here connects inputs, batching and replies."""

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import bentoml
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from loupe.errors import LoupeError, NotAcceptable
from loupe.images import Float32Array, UInt8Array
from loupe.settings import load_settings
from service import inputs, replies
from service.batching import Caller
from service.metrics import NO_MODEL, Metrics
from service.models import ServedModel, ServedModels
from service.options import Options, read_options, read_timeout

# How soon the engine's thread gets the interpreter; Python's 5 ms is longer than most answers take.
SWITCH_SECONDS = 0.0005
PROTOCOL = "loupe"  # of the routes here, in the metrics


class _RequestSpec(bentoml.IODescriptor):  # type: ignore[misc]
    """Hands the request through as it is; the fields of the subclasses are for the OpenAPI page."""

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


@bentoml.service(
    name="loupe",
    workers=1,
    traffic={"timeout": 30},  # seconds; every request leaves a timer behind for so long
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class Loupe:
    """Classifies small images.

    Raises:
        ModelNotFound: If the store has no model to serve by default.
        InvalidSetting: If an environment variable has a value it cannot have.
    """

    def __init__(self) -> None:
        self._settings = load_settings()
        self._metrics = Metrics()
        self._models = ServedModels(self._settings, self._metrics)
        self._following: asyncio.Task[None] | None = None
        for name in ("predict", "predict_batch"):
            setattr(self, name, getattr(self, name))  # BentoML would inspect the signature anew at every request

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def tune(self) -> None:
        """Tune the interpreter for many short requests, now that everything is loaded, and follow the store."""
        gc.collect()
        gc.freeze()  # full collections would walk through all that was imported, and stall requests for it
        sys.setswitchinterval(SWITCH_SECONDS)
        self._following = asyncio.create_task(self._models.follow(), name="follow the store")

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Answer what waits."""
        if self._following is not None:
            self._following.cancel()
        await self._models.close()

    async def __metrics__(self, text: str) -> str:
        """What BentoML exposes as metrics, and ours."""
        in_flight = {served.stored.name: served.batcher.admitted for served in self._models.all()}
        return text + self._metrics.exposed(in_flight, [served.stored for served in self._models.all()])

    @bentoml.api(route="/predict", input_spec=ImageRequest, output_spec=Prediction)  # type: ignore[untyped-decorator]
    async def predict(self, request: Request) -> Response:
        """Class of one image.

        Takes an image body (`Content-Type: image/png` …), `multipart/form-data` with a field `image`, or JSON
        `{"image": "<base64>"}` or `{"pixels": [[…28 rows of 28…]]}`. Query parameters: `model`, `top_k`, `threshold`, `normalize`, `lang`.
        """
        return await self._answered(self._predict, request)

    @bentoml.api(route="/predict_batch", input_spec=BatchRequest, output_spec=Predictions)  # type: ignore[untyped-decorator]
    async def predict_batch(self, request: Request) -> Response:
        """Classes of many images.

        Takes `multipart/form-data` with fields `images`, JSON `{"images": ["<base64>", …]}`, or an `.npy` body of uint8
        `(n, 28, 28)`. Query parameters as for `/predict`.
        """
        return await self._answered(self._predict_batch, request)

    async def _answered(
        self, answer: Callable[[Request, Options, ServedModel], Awaitable[Response]], request: Request
    ) -> Response:
        """The answer of a route, or the error it ends with; either is counted."""
        model = NO_MODEL
        try:
            options = read_options(request)
            with self._models.find(options.model).in_use() as served:
                model = served.stored.name
                response = await answer(request, options, served)
        except LoupeError as error:
            self._metrics.rejected(error.code)
            response = replies.failure(error)
        self._metrics.answered(PROTOCOL, model, response.status_code)
        return response

    async def _predict(self, request: Request, options: Options, served: ServedModel) -> Response:
        card = served.stored.card
        names = card.names(options.language)
        caller = self._caller(request)
        with self._metrics.decode.time():
            prepare = inputs.preparation(card.look, options.normalize)
            image = await inputs.read_image(request, self._settings, prepare)
        probabilities = await self._compute(image[None], options, served, caller)  # (1, classes)
        with self._metrics.encode.time():
            return replies.prediction(served.stored.tag, names, probabilities[0], options)

    async def _predict_batch(self, request: Request, options: Options, served: ServedModel) -> Response:
        card = served.stored.card
        names = card.names(options.language)
        caller = self._caller(request)
        with self._metrics.decode.time():
            prepare = inputs.preparation(card.look, options.normalize)
            batch = await inputs.read_batch(request, self._settings, prepare)
        as_npy = replies.NPY in request.headers.get("accept", "")
        if as_npy and batch.errors:
            raise NotAcceptable(
                "images that can all be read, for an answer as .npy", f"{len(batch.errors)} that cannot"
            )
        probabilities = await self._compute(batch.images, options, served, caller)
        with self._metrics.encode.time():
            if as_npy:
                return replies.npy(served.stored.tag, probabilities)
            return replies.predictions(served.stored.tag, names, batch, probabilities, options)

    async def _compute(self, images: UInt8Array, options: Options, served: ServedModel, caller: Caller) -> Float32Array:
        probabilities = await served.batcher.predict(images, caller)
        served.metrics.tally.add(probabilities, options.threshold)
        return probabilities

    def _caller(self, request: Request) -> Caller:
        return Caller.within(read_timeout(request, self._settings.request_timeout_seconds), request.is_disconnected)
