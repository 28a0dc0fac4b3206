"""The core of all protocols: find the model, run it, answer errors, and count."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeAlias

from prometheus_client.core import Metric
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from loupe.errors import LoupeError, ShuttingDown
from loupe.images.spec import Normalize, UInt8Array
from loupe.images.steps import Step
from loupe.models.answers import AnswerOptions, check_split
from loupe.models.engines.engine import Outputs
from loupe.settings import Settings
from service.captures.captures import Captures
from service.http import replies
from service.http.bodies import Bodies
from service.http.context import NO_KEY, context_of
from service.http.keys import Right, Rights, check_right
from service.http.options import read_timeout
from service.http.shares import turn
from service.jobs.queue import JobQueue
from service.key_limits import KeyLimits, read_limits
from service.metrics import NO_MODEL, Metrics, exposed
from service.prediction.caller import Caller
from service.prediction.decoding import Decoders, Preparation
from service.prediction.served_models import ServedModel, ServedModels
from service.shared_metrics import SharedMetrics

if TYPE_CHECKING:
    from service.tracing import Tracing

logger = logging.getLogger(__name__)

PUBLISH_SECONDS = 1.0  # between the times that the metrics of this process are published
FINAL_RESPONSE_SECONDS = 0.5  # to send a 503 after the shutdown timeout

NO_SPAN = nullcontext()
ANY_ANSWER = AnswerOptions()
Handler: TypeAlias = "Callable[[Call], Awaitable[Response]]"


class _Endpoint:
    """The ASGI app of a route; Starlette's wrapper of functions costs three more calls."""

    def __init__(self, protocol: str, handler: Handler, right: Right | None) -> None:
        self._protocol = protocol
        self._handler = handler
        self._right = right

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await respond(self._protocol, request, self._handler, self._right)
        await response(scope, receive, send)


def route(
    method: str, path: str, protocol: str, handler: Handler, right: Right | None = None
) -> Route:
    """Make a route whose handler gets a `Call` and may raise `LoupeError`.

    Args:
        method: `GET`, `POST` or `DELETE`.
        path: Starlette's pattern, with parameters in braces.
        protocol: Name of the protocol in the metrics.
        handler: Answers the call.
        right: What the client must be allowed to do.
    """
    return Route(path, _Endpoint(protocol, handler, right), methods=[method])


async def respond(
    protocol: str, request: Request, handler: Handler, right: Right | None = None
) -> Response:
    """Return the handler's response, or the response for its error, and count it."""
    predictor: Predictor = request.app.state.predictor
    context = context_of(request.scope)
    call = Call(predictor, request)
    try:
        if right is not None:
            check_right(right, context.rights, call.owner)
        response = await handler(call)
    except asyncio.CancelledError:
        if not predictor.stopping:
            raise
        shutdown = ShuttingDown("The service is shutting down. Send the request again.")
        predictor.metrics.rejected(shutdown.code)
        response = replies.failure(shutdown)
        if (task := asyncio.current_task()) is not None:  # the client may not read the response
            asyncio.get_running_loop().call_later(FINAL_RESPONSE_SECONDS, task.cancel)
    except Exception as error:  # noqa: BLE001 - `failure` logs what is unexpected
        response = replies.failure(
            predictor.failure(f"{request.method} {request.scope['path']}", error)
        )
    finally:
        predictor.bodies.release(context)
    predictor.metrics.answered(protocol, call.model_name, response.status_code, context.key_name)
    call.ended(response.status_code)
    return response


class Predictor:
    """The served models, and everything else that calls need.

    Attributes:
        draining: Whether load balancers should send no more requests; they are still answered.
        stopping: Whether the service is shutting down; it still answers requests in flight.
        tracing: Records spans, if traces are exported.
        key_limits: Limits what each API key may use.
    """

    def __init__(
        self,
        settings: Settings,
        tracing: "Tracing | None" = None,
        shared: SharedMetrics | None = None,
    ) -> None:
        self.settings = settings
        self.tracing = tracing
        self.draining = False
        self.stopping = False
        self.metrics = Metrics()
        folder = None if shared is None else shared.folder
        self.key_limits = KeyLimits(read_limits(settings), folder)
        self._shared = shared
        self.models = ServedModels(settings, self.metrics)
        self.decoders = Decoders(settings, self.metrics.lost_decoder)
        self.bodies = Bodies(settings)
        self.jobs = JobQueue(settings)
        self.captures = Captures(settings)

    def rpc(
        self, service: str, method: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[None]:
        """Return the context of a gRPC call: its span, if calls are traced."""
        return NO_SPAN if self.tracing is None else self.tracing.rpc(service, method, headers)

    def failure(self, name: str, error: Exception) -> LoupeError:
        """Count the error of a call, and return what to report. Log unexpected exceptions."""
        if isinstance(error, LoupeError):
            failure = error.with_traceback(None)  # its frames would keep the request's body
        else:  # its message may contain internals
            logger.error("%s failed", name, exc_info=error)
            failure = LoupeError("Something went wrong inside the service. Its log has details.")
        self.metrics.rejected(failure.code)
        if self.tracing is not None:
            self.tracing.record(failure)
        return failure

    async def close(self) -> None:
        """Answer what is queued, then stop."""
        self.decoders.close()
        await self.models.close()
        await self.jobs.close()
        await asyncio.to_thread(self.captures.close)
        if self._shared is not None:
            self._shared.publish(self._collected())
            self._shared.close()

    async def exposed_metrics(self) -> bytes:
        """Return all metrics in Prometheus's text format; other requests go between two calls."""
        queue = await self.jobs.metrics()
        await turn()
        mine = self._collected()
        if (shared := self._shared) is None:
            return exposed([*mine, *queue])
        shared.publish(mine)
        return await asyncio.to_thread(lambda: exposed([*shared.collected(), *queue]))

    async def publish_metrics(self) -> None:
        """Publish the metrics of this process regularly, if there are others."""
        while self._shared is not None:
            self._shared.publish(self._collected())
            await asyncio.sleep(PUBLISH_SECONDS)

    @property
    def is_first(self) -> bool:
        """Tell whether this process does what only one process of a service needs to do."""
        return self._shared is None or self._shared.number == 0

    def _collected(self) -> list[Metric]:
        served = self.models.all()
        in_flight: dict[str, int] = {}
        for model in served:
            name = model.stored.name
            in_flight[name] = in_flight.get(name, 0) + model.batcher.admitted
        mine = self.metrics.collected(in_flight, [model.stored for model in served])
        return [*mine, *self.key_limits.metrics()]


class AnyCall:
    """One call, over HTTP or gRPC.

    Attributes:
        settings: The service's settings.
        models: The served models.
        model_name: Name of the model that answers; `NO_MODEL` until it is known.
        begun: When the call arrived, on the clock of `time.monotonic`.
        draining: Whether load balancers should have sent the call elsewhere.
        stopping: Whether the service was shutting down then.
        key_name: Name of the caller's API key.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.settings = predictor.settings
        self.models = predictor.models
        self.model_name = NO_MODEL
        self.begun = time.monotonic()
        self.draining = predictor.draining
        self.stopping = predictor.stopping
        self.key_name = NO_KEY
        self._served: ServedModel | None = None
        self._decodes = False
        self._decoded: float | None = None
        self._computed: tuple[int, float] | None = None  # images, and the end
        self._decoders = predictor.decoders
        self._key_limits = predictor.key_limits
        self._metrics = predictor.metrics
        self._tracing = predictor.tracing
        self._captures = predictor.captures

    def model(self, tag: str | None) -> ServedModel:
        """Return the model for a tag, or the default model. Use it in a `with` block.

        A canary answers some of the requests for production.

        Raises:
            ModelNotFound: If it is not served.
        """
        served = self._served = self.models.choose(tag)
        self.model_name = served.stored.name
        if self._tracing is not None:
            self._tracing.set_model(served.stored.tag)
        return served

    def decoding(self) -> AbstractContextManager[None]:
        """Return the context in which the body is read and its images are decoded.

        Raises:
            TooManyRequests: If the caller's key has no images left today.
        """
        self._key_limits.take_images(self.key_name, 0)
        self._decodes = True
        return self._phase("decode")

    def encoding(self) -> AbstractContextManager[None]:
        """Return the context in which the response is built."""
        return self._phase("encode")

    def _phase(self, name: str) -> AbstractContextManager[None]:
        return NO_SPAN if self._tracing is None else self._tracing.phase(name)

    def preparation(
        self,
        served: ServedModel,
        caller: Caller,
        normalize: Normalize = "auto",
        steps: list[Step] | None = None,
        split: bool = False,
    ) -> Preparation:
        """Return how pictures are prepared for a model.

        Raises:
            InvalidRequest: If pictures cannot be split for this model.
        """
        spec = served.stored.card.input
        if split:
            check_split(served.stored.tag, spec, normalize)
        return Preparation(spec, normalize, caller, self._decoders, steps, split)

    async def predict(
        self,
        images: UInt8Array,
        served: ServedModel,
        caller: Caller,
        options: AnswerOptions = ANY_ANSWER,
    ) -> Outputs:
        """Run the model; see `Batcher.predict`. The metrics count answers that `options` refuse.

        Raises:
            TooManyRequests: Also if the caller's key has too few images left today.
        """
        self._key_limits.take_images(self.key_name, len(images))
        span: AbstractContextManager[None] = NO_SPAN
        if self._tracing is not None:
            span = self._tracing.phase("predict", attributes={"loupe.images": len(images)})
        self._decoded = time.monotonic()
        try:
            with span:
                outputs = await served.batcher.predict(images, caller)
        except BaseException:
            self._key_limits.give_back(self.key_name, len(images))
            raise
        self._computed = len(images), time.monotonic()
        served.metrics.add(outputs, options)
        if self.key_name != NO_KEY:
            self._metrics.key_images[(self.key_name,)] += len(images)
        if self._captures.share:
            self._captures.offer(served.stored, images, *outputs)
        if served.trial is not None:
            served.trial.compare(served, images, outputs)
        return outputs

    def ended(self, status: int) -> None:
        """Count the time of a prediction; `status` is that of HTTP."""
        if self._served is None or not self._decodes:
            return
        now = time.monotonic()
        decoded = self._decoded or now
        self._metrics.decode.observe(decoded - self.begun)
        if status >= HTTPStatus.BAD_REQUEST:
            self._served.statistics.refused(self.begun)
            trial = self._served.trial
            if status == HTTPStatus.INTERNAL_SERVER_ERROR and trial is not None:
                trial.failed_request(self._served)
        elif self._computed is not None:
            images, computed = self._computed
            self._metrics.encode.observe(now - computed)
            self._served.statistics.answered(images, self.begun, decoded, computed)


class Call(AnyCall):
    """An HTTP request that is being answered.

    Attributes:
        request: The request.
        bodies: Reads its body.
        jobs: The client side of the job queue.
        captures: The sample of served pictures.
        is_gone: Returns whether the client has disconnected.
        exposed_metrics: Returns all metrics in Prometheus's text format.
    """

    def __init__(self, predictor: Predictor, request: Request) -> None:
        super().__init__(predictor)
        self.request = request
        self.bodies = predictor.bodies
        self.jobs = predictor.jobs
        self.captures = predictor.captures
        self._context = context_of(request.scope)
        self.key_name = self._context.key_name
        self.is_gone = self._context.is_gone
        self.exposed_metrics = predictor.exposed_metrics
        self._predictor = predictor
        if self._tracing is not None:
            self._tracing.set_route(request)

    @property
    def owner(self) -> str | None:
        """The name of the client's API key; `None` if none is needed."""
        return self.key_name if self.settings.needs_keys else None

    @property
    def content_type(self) -> str | None:
        """The header `Content-Type`, if there is one."""
        given = self._context.headers.get(b"content-type")
        return None if given is None else given.decode("latin-1")

    @property
    def rights(self) -> Rights:
        """The rights of the client."""
        return self._context.rights

    @property
    def prefix(self) -> str:
        """Path before the service's own, as the client sees it; empty or `/…`."""
        return self._context.prefix

    def is_stopping(self) -> bool:
        """Return whether the service is shutting down now."""
        return self._predictor.stopping

    def caller(self, timeout_seconds: float | None = None) -> Caller:
        """Return the client, with the timeout from the body or else from the header.

        Raises:
            InvalidRequest: If the header is not a valid timeout.
        """
        maximum = self.settings.request_timeout_seconds
        seconds = (
            read_timeout(self._context.headers, maximum)
            if timeout_seconds is None
            else min(timeout_seconds, maximum)
        )
        context = self._context
        return Caller(
            seconds, self.begun + seconds, context.is_gone, context.caller, context.is_alone
        )
