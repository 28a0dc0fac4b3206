"""What every protocol does alike: find the model that a call names, have images computed, answer errors, and count it all."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from loupe.errors import LoupeError
from loupe.images.spec import Float32Array, UInt8Array
from loupe.old_errors.service import InternalError, ShuttingDown
from loupe.settings import Settings
from service.http import replies
from service.http.bodies import Bodies
from service.http.options import Normalize, read_timeout
from service.jobs.queue import JobQueue
from service.metrics import NO_KEY, NO_MODEL, Metrics
from service.prediction.caller import Caller
from service.prediction.decoding import Preparation
from service.prediction.served_models import ServedModel, ServedModels

logger = logging.getLogger(
    "bentoml.loupe.predictor"
)  # below BentoML's logger, so that its handlers apply


LAST_WORD_SECONDS = 0.5  # for an answer that says that the service stops

Handler: TypeAlias = "Callable[[Call], Awaitable[Response]]"
Answer = TypeVar("Answer")


class Routes(Router):
    """All routes of the service.

    Attributes:
        predictor: What all of them answer with; given before the first request comes.
    """

    predictor: "Predictor"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        scope.setdefault("state", {})["predictor"] = self.predictor
        await super().__call__(scope, receive, send)


class _Endpoint:
    """An ASGI app that answers by a handler. Starlette's own for functions would do the same by three calls more."""

    def __init__(self, protocol: str, handler: Handler) -> None:
        self._protocol = protocol
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        predictor: Predictor = scope["state"]["predictor"]
        response = await predictor.respond(
            self._protocol, Request(scope, receive, send), self._handler
        )
        await response(scope, receive, send)


def route(method: str, path: str, protocol: str, handler: Handler) -> Route:
    """One of `Routes`.

    Args:
        method: `GET`, `POST` or `DELETE`.
        path: As Starlette takes it, with parameters in braces.
        protocol: What the call counts as in the metrics.
        handler: Answers a call; its errors are answered as they are everywhere.
    """
    return Route(path, _Endpoint(protocol, handler), methods=[method])


class Predictor:
    """The models that are served, and all that a call of them needs.

    Attributes:
        stopping: Whether the service has been told to stop; what is in hand is answered still.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self.metrics = Metrics()
        self.models = ServedModels(settings, self.metrics)
        self.bodies = Bodies(settings)
        self.jobs = JobQueue(settings)

    def call(self, request: Request) -> "Call":
        """A request that is to be answered."""
        return Call(self, request)

    def rpc(
        self, service: str, method: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[None]:
        """What a call over gRPC happens in."""
        return nullcontext()

    async def respond(self, protocol: str, request: Request, handler: Handler) -> Response:
        """What a handler answers, or the error that it ends with; either is counted."""
        call = self.call(request)
        outcome: Response | LoupeError
        try:
            outcome = await self.outcome(f"{request.method} {request.scope['path']}", handler(call))
        except asyncio.CancelledError:
            if not self.stopping:
                raise
            outcome = (
                ShuttingDown()
            )  # the time that requests in hand have after a stop signal is over
            self.metrics.rejected(outcome.code)
            if (
                task := asyncio.current_task()
            ) is not None:  # who does not read the answer is not waited for
                asyncio.get_running_loop().call_later(LAST_WORD_SECONDS, task.cancel)
        finally:  # also where it was cancelled
            self.bodies.release(request.scope)
        response = replies.failure(outcome) if isinstance(outcome, LoupeError) else outcome
        key: str = request.scope.get("state", {}).get("key", NO_KEY)
        self.metrics.answered(protocol, call.model_name, response.status_code, key)
        return response

    async def outcome(self, name: str, answer: Awaitable[Answer]) -> Answer | LoupeError:
        """An answer, or the error that stands for it; that is counted, and told in the log by the call's name if it is ours."""
        try:
            return await answer
        except LoupeError as error:
            refused = error.with_traceback(
                None
            )  # else its frames would keep the request until garbage is collected
        except Exception:  # its text may hold what is no caller's business
            logger.exception("%s failed", name)
            refused = InternalError()
        self.metrics.rejected(refused.code)
        return refused

    async def close(self) -> None:
        """Answer what waits."""
        await self.models.close()
        await self.jobs.close()

    def exposed_metrics(self) -> bytes:
        """What is so at this moment, in Prometheus's text format."""
        served = self.models.all()
        in_flight: dict[str, int] = {}
        for model in served:
            in_flight[model.stored.name] = (
                in_flight.get(model.stored.name, 0) + model.batcher.admitted
            )
        return self.metrics.exposed(in_flight, [model.stored for model in served])


class AnyCall:
    """What is being answered, however it came.

    Attributes:
        settings: Of the service.
        models: What is served.
        model_name: Of the model that answers; `NO_MODEL` before it is known.
        begun: When it came, on the clock of `time.monotonic`.
        stopping: Whether the service had been told to stop by then.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.settings = predictor.settings
        self.models = predictor.models
        self.model_name = NO_MODEL
        self.begun = time.monotonic()
        self.stopping = predictor.stopping
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

    def decoding(self) -> AbstractContextManager[object]:
        """Times the reading of a body and its pictures."""
        return self._metrics.decode.time()

    def encoding(self) -> AbstractContextManager[object]:
        """Times the writing of an answer."""
        return self._metrics.encode.time()

    def preparation(
        self, served: ServedModel, caller: Caller, normalize: Normalize = "auto"
    ) -> Preparation:
        """What is done to pictures before a model sees them."""
        return Preparation(served.stored.card.look, normalize, caller, self.models.are_busy)

    async def predict(
        self,
        images: UInt8Array,
        served: ServedModel,
        caller: Caller,
        threshold: float | None = None,
    ) -> Float32Array:
        """Class probabilities, float32 `(n, classes)`, of images, uint8 `(n, 28, 28)`; `threshold` is for the metrics.

        Raises:
            LoupeError: See `Batcher.predict`.
        """
        probabilities = await served.batcher.predict(images, caller)
        served.metrics.tally.add(probabilities, threshold)
        return probabilities


def _cannot_tell() -> bool:
    """Whether a caller has gone, where the connection is not one of `service.connection`."""
    return False


class Call(AnyCall):
    """A request over HTTP that is being answered.

    Attributes:
        request: As it came.
        bodies: What reads its body.
        jobs: The client side of the queue.
        is_gone: Whether its caller has gone.
    """

    def __init__(self, predictor: Predictor, request: Request) -> None:
        super().__init__(predictor)
        self.request = request
        self.bodies = predictor.bodies
        self.jobs = predictor.jobs
        self.is_gone: Callable[[], bool] = request.scope["state"].get("is_gone", _cannot_tell)
        self._predictor = predictor
        self.exposed_metrics = predictor.exposed_metrics

    @property
    def owner(self) -> str | None:
        """The name of the caller's API key; `None` where nobody needs one."""
        key: str = self.request.scope["state"]["key"]
        return key if self.settings.needs_keys else None

    def is_stopping(self) -> bool:
        """Whether the service has been told to stop by now."""
        return self._predictor.stopping

    def caller(self, timeout_seconds: float | None = None) -> Caller:
        """Who waits for the answer.

        Args:
            timeout_seconds: What the request says of its time, if its protocol has a way of its own to say so.

        Raises:
            InvalidRequest: If the request's header for its time holds none.
        """
        longest = self.settings.request_timeout_seconds
        seconds = (
            read_timeout(self.request, longest)
            if timeout_seconds is None
            else min(timeout_seconds, longest)
        )
        return Caller(seconds, self.begun + seconds, self.is_gone)
