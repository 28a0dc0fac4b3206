"""The Bento service. Models are loaded once, when the process starts; everything else here connects inputs, batching and replies."""

import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import bentoml
from prometheus_client import Histogram
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from loupe.engine import available_cores, load_engine
from loupe.errors import LoupeError, ModelNotFound
from loupe.settings import load_settings
from loupe.store import StoredModel, default_models, find_model, labels
from service import inputs, replies
from service.batching import Batcher

logger = logging.getLogger("bentoml.loupe")  # below BentoML's logger, so that its handlers apply

# How soon the engine's thread gets the interpreter; Python's 5 ms is longer than most answers take.
SWITCH_SECONDS = 0.0005
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # images


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


@dataclass(frozen=True)
class ServedModel:
    """A model, the queue in front of it, and all that a request may call it."""

    stored: StoredModel
    batcher: Batcher
    tags: frozenset[str]


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
        batch_sizes = bentoml.metrics.Histogram(
            name="loupe_batch_size",
            documentation="Images in one run of the engine",
            labelnames=["model"],
            buckets=BATCH_SIZE_BUCKETS,
        )
        self._default = find_model(self._settings.model)
        self._models: dict[str, ServedModel] = {}
        self._serve(self._default, batch_sizes)
        for stored in default_models():
            if stored.name not in self._models:
                try:
                    self._serve(stored, batch_sizes)
                except LoupeError as error:  # the others are served all the same
                    logger.error("not serving %s: %s", stored.tag, error)
        for name in ("predict", "predict_batch"):
            setattr(self, name, getattr(self, name))  # BentoML would inspect the signature anew at every request

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    async def tune(self) -> None:
        """Tune the interpreter for many short requests, now that everything is loaded."""
        gc.collect()
        gc.freeze()  # full collections would walk through all that was imported, and stall requests for it
        sys.setswitchinterval(SWITCH_SECONDS)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Answer what waits."""
        for served in self._models.values():
            await served.batcher.close()

    @bentoml.api(route="/predict", input_spec=ImageRequest, output_spec=Prediction)  # type: ignore[untyped-decorator]
    async def predict(self, request: Request) -> Response:
        """Class of one image.

        Takes an image body (`Content-Type: image/png` …), `multipart/form-data` with a field `image`, or JSON
        `{"image": "<base64>"}` or `{"pixels": [[…28 rows of 28…]]}`. The query parameter `model` names a model other than the default.
        """
        return await _answered(self._predict, request)

    @bentoml.api(route="/predict_batch", input_spec=BatchRequest, output_spec=Predictions)  # type: ignore[untyped-decorator]
    async def predict_batch(self, request: Request) -> Response:
        """Classes of many images.

        Takes `multipart/form-data` with fields `images`, JSON `{"images": ["<base64>", …]}`, or an `.npy` body of uint8
        `(n, 28, 28)`. The query parameter `model` names a model other than the default.
        """
        return await _answered(self._predict_batch, request)

    async def _predict(self, request: Request) -> Response:
        served = self._find(request)
        card = served.stored.card
        image = await inputs.read_image(request, self._settings, card.look)
        probabilities = await served.batcher.predict(image[None])  # (1, classes)
        return replies.prediction(served.stored.tag, card.class_names, probabilities[0])

    async def _predict_batch(self, request: Request) -> Response:
        served = self._find(request)
        card = served.stored.card
        batch = await inputs.read_batch(request, self._settings, card.look)
        probabilities = await served.batcher.predict(batch.images)
        return replies.predictions(served.stored.tag, card.class_names, batch, probabilities)

    def _serve(self, stored: StoredModel, batch_sizes: Histogram) -> None:
        """Load a model, and put a queue in front of it."""
        threads = self._settings.threads or max(1, available_cores() - 1)  # one core is busy with HTTP and decoding
        engine = load_engine(stored, self._settings.engine, threads)
        batcher = Batcher(
            engine.predict,
            classes=len(stored.card.class_names),
            max_batch_size=self._settings.max_batch_size,
            max_queued_images=self._settings.max_queued_images,
            timeout_seconds=self._settings.request_timeout_seconds,
            observe_batch=batch_sizes.labels(model=stored.name).observe,
        )
        labelled = (f"{stored.name}:{label}" for label in labels().get(stored.tag, []))
        tags = frozenset((stored.name, stored.tag, *labelled))
        self._models[stored.name] = ServedModel(stored, batcher, tags)
        logger.info("serving %s", stored.tag)

    def _find(self, request: Request) -> ServedModel:
        """The model a request names, by `name`, full tag or label, or the default."""
        if not request.scope["query_string"]:
            return self._models[self._default.name]
        wanted = request.query_params.get("model", self._default.name)
        served = self._models.get(wanted.partition(":")[0])
        if served is None or wanted not in served.tags:
            raise ModelNotFound(wanted, [served.stored.tag for served in self._models.values()])
        return served


async def _answered(answer: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    try:
        return await answer(request)
    except LoupeError as error:
        return replies.failure(error)
