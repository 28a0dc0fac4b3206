"""What every protocol does alike: find the model that a call names, have images computed, answer errors, and count it all."""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loupe.errors import InternalError, LoupeError
from loupe.images import Float32Array, UInt8Array
from loupe.settings import Settings
from service import replies
from service.batching import Caller
from service.metrics import NO_KEY, NO_MODEL, Metrics
from service.models import ServedModel, ServedModels
from service.options import read_timeout

logger = logging.getLogger("bentoml.loupe.predictor")  # below BentoML's logger, so that its handlers apply


Handler: TypeAlias = "Callable[[Call], Awaitable[Response]]"
Answer = TypeVar("Answer")


def route(method: str, path: str, protocol: str, handler: Handler) -> Route:
    """A route of an app whose `state.predictor` is the `Predictor`.

    Args:
        method: `GET` or `POST`.
        path: As Starlette takes it, with parameters in braces.
        protocol: What the call counts as in the metrics.
        handler: Answers a call; its errors are answered as they are everywhere.
    """

    async def endpoint(request: Request) -> Response:
        predictor: Predictor = request.app.state.predictor
        return await predictor.respond(protocol, request, handler)

    return Route(path, endpoint, methods=[method])


class Predictor:
    """The models that are served, and all that a call of them needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.models = ServedModels(settings, self.metrics)

    async def respond(self, protocol: str, request: Request, handler: Handler) -> Response:
        """What a handler answers, or the error that it ends with; either is counted."""
        call = Call(self, request)
        outcome = await self.outcome(f"{request.method} {request.scope['path']}", handler(call))
        response = replies.failure(outcome) if isinstance(outcome, LoupeError) else outcome
        key: str = request.scope.get("state", {}).get("key", NO_KEY)
        self.metrics.answered(protocol, call.model_name, response.status_code, key)
        return response

    async def outcome(self, name: str, answer: Awaitable[Answer]) -> Answer | LoupeError:
        """An answer, or the error that stands for it; that is counted, and told in the log by the call's name if it is ours."""
        try:
            return await answer
        except LoupeError as error:
            refused = error
        except Exception:  # its text may hold what is no caller's business
            logger.exception("%s failed", name)
            refused = InternalError()
        self.metrics.rejected(refused.code)
        return refused

    def exposed_metrics(self) -> bytes:
        """What is so at this moment, in Prometheus's text format."""
        served = self.models.all()
        in_flight: dict[str, int] = {}
        for model in served:
            in_flight[model.stored.name] = in_flight.get(model.stored.name, 0) + model.batcher.admitted
        return self.metrics.exposed(in_flight, [model.stored for model in served])


class AnyCall:
    """What is being answered, however it came.

    Attributes:
        settings: Of the service.
        models: What is served.
        model_name: Of the model that answers; `NO_MODEL` before it is known.
        begun: When it came, on the clock of `time.monotonic`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.settings = predictor.settings
        self.models = predictor.models
        self.model_name = NO_MODEL
        self.begun = time.monotonic()
        self._metrics = predictor.metrics

    @contextmanager
    def model(self, tag: str | None) -> Iterator[ServedModel]:
        """The model of a tag, or the default model; it stays until the block ends, whatever takes its place.

        Raises:
            ModelNotFound: If it is not served.
        """
        served = self.models.find(tag)
        self.model_name = served.stored.name
        with served.in_use():
            yield served

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Times the reading of a body and its pictures."""
        with self._metrics.decode.time():
            yield

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Times the writing of an answer."""
        with self._metrics.encode.time():
            yield

    async def compute(
        self, images: UInt8Array, served: ServedModel, caller: Caller, threshold: float | None = None
    ) -> Float32Array:
        """Class probabilities, float32 `(n, classes)`, of images, uint8 `(n, 28, 28)`; `threshold` is for the metrics.

        Raises:
            LoupeError: See `Batcher.predict`.
        """
        probabilities = await served.batcher.predict(images, caller)
        served.metrics.tally.add(probabilities, threshold)
        return probabilities


class Call(AnyCall):
    """A request over HTTP that is being answered.

    Attributes:
        request: As it came.
    """

    def __init__(self, predictor: Predictor, request: Request) -> None:
        super().__init__(predictor)
        self.request = request
        self.exposed_metrics = predictor.exposed_metrics

    async def predict(
        self,
        images: UInt8Array,
        served: ServedModel,
        *,
        threshold: float | None = None,
        timeout_seconds: float | None = None,
    ) -> Float32Array:
        """Class probabilities, float32 `(n, classes)`, of images, uint8 `(n, 28, 28)`.

        Args:
            images: What to look at.
            served: The model that answers.
            threshold: Confidence below which the answer will give no label; for the metrics.
            timeout_seconds: What the request says of its time, if its protocol has a way of its own to say so.

        Raises:
            InvalidRequest: If the request's header for its time holds none.
            LoupeError: See `Batcher.predict`.
        """
        longest = self.settings.request_timeout_seconds
        seconds = read_timeout(self.request, longest) if timeout_seconds is None else min(timeout_seconds, longest)
        caller = Caller(seconds, self.begun + seconds, self.request.is_disconnected)
        return await self.compute(images, served, caller, threshold)
