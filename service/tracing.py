"""Spans of OpenTelemetry: one for each call over gRPC, and one for each request over HTTP, with one in it for each of its phases.

Imported only where traces are asked for. What OpenTelemetry's variables say of exporter, sampler, service and limits, its SDK reads itself.
Attributes follow its conventions for HTTP and RPC; those beside them begin with `loupe.`.
Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

import threading
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from loupe import __version__
from loupe.errors import LoupeError
from loupe.images.spec import Float32Array, UInt8Array
from loupe.old_errors.service import TracingUnavailable
from loupe.settings import Settings
from service import health
from service.http.guard import Guard
from service.http.logs import REQUEST_ID, TRACE_ID
from service.prediction.caller import Caller
from service.prediction.predictor import Answer, Call, Predictor
from service.prediction.served_models import ServedModel

try:
    from opentelemetry import propagate, trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import (
        SERVICE_NAME,
        SERVICE_VERSION,
        OTELResourceDetector,
        Resource,
    )
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
except ImportError as error:
    raise TracingUnavailable(str(error)) from error

FLUSH_SECONDS = 3  # at the end, for a collector that does not answer; supervisors kill who takes much longer to stop

tracer = trace.get_tracer(
    "loupe", __version__
)  # of the provider that is set before the first request


class TracedGuard(Guard):
    """A guard that begins a span with a request, within the trace that its caller is in, and ends it with the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http" or scope["path"] in health.PATHS:
            await super().__call__(scope, receive, send)
            return
        about = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        parent = propagate.extract(Headers(scope=scope))
        span = tracer.start_span(scope["method"], parent, trace.SpanKind.SERVER, about)
        TRACE_ID.set(trace.format_trace_id(span.get_span_context().trace_id))
        if span.is_recording():
            with trace.use_span(span, end_on_exit=True):
                await super().__call__(scope, receive, partial(_noted, span, send))
                span.set_attribute("loupe.request_id", REQUEST_ID.get() or "")
        else:  # it is not sampled
            await super().__call__(scope, receive, send)


async def _noted(span: trace.Span, send: Send, message: Message) -> None:
    """Send a part of an answer, whose status the span is told."""
    if message["type"] == "http.response.start":
        span.set_attribute("http.response.status_code", message["status"])
    await send(message)


class TracedCall(Call):
    """A sampled request, whose span is told the route and the model, and that has a span for each phase."""

    def __init__(self, predictor: Predictor, request: Request) -> None:
        super().__init__(predictor, request)
        self._span = trace.get_current_span()
        if (path := getattr(request.scope.get("route"), "path_format", None)) is not None:
            self._span.update_name(f"{request.method} {path}")
            self._span.set_attribute("http.route", path)

    @contextmanager
    def model(self, tag: str | None) -> Iterator[ServedModel]:
        """The model of a tag, or the default model; see `Call.model`."""
        with super().model(tag) as served:
            self._span.set_attribute("loupe.model", served.stored.tag)
            yield served

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Times the reading of a body and its pictures."""
        with _phase("decode"), super().decoding():
            yield

    @contextmanager
    def encoding(self) -> Iterator[None]:
        """Times the writing of an answer."""
        with _phase("encode"), super().encoding():
            yield

    async def predict(
        self,
        images: UInt8Array,
        served: ServedModel,
        caller: Caller,
        threshold: float | None = None,
    ) -> Float32Array:
        """Class probabilities; see `Call.predict`. The span lasts from the queue to the answer."""
        with _phase("predict", {"loupe.images": len(images)}):
            return await super().predict(images, served, caller, threshold)


class TracedPredictor(Predictor):
    """A predictor whose calls are traced; sends the spans to the collector from a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        ours = Resource.create({SERVICE_NAME: "loupe", SERVICE_VERSION: __version__})
        resource = ours.merge(
            OTELResourceDetector().detect()
        )  # what the environment says comes first
        self._spans = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(self._spans)

    def call(self, request: Request) -> Call:
        """A request that is to be answered; where it is not sampled, nothing is to be told of it."""
        return (
            TracedCall(self, request)
            if trace.get_current_span().is_recording()
            else super().call(request)
        )

    @contextmanager
    def rpc(self, service: str, method: str, headers: Mapping[str, str]) -> Iterator[None]:
        """The span of a call over gRPC, within the trace that its caller is in."""
        about = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        parent = propagate.extract(headers)
        with tracer.start_as_current_span(
            f"{service}/{method}", parent, trace.SpanKind.SERVER, about
        ) as span:
            TRACE_ID.set(trace.format_trace_id(span.get_span_context().trace_id))
            span.set_attribute("loupe.request_id", REQUEST_ID.get() or "")
            yield

    async def outcome(self, name: str, answer: Awaitable[Answer]) -> Answer | LoupeError:
        """An answer, or the error that stands for it, whose code the span is told."""
        outcome = await super().outcome(name, answer)
        if isinstance(outcome, LoupeError):
            span = trace.get_current_span()
            span.set_attribute("loupe.code", outcome.code)
            if outcome.status >= 500:
                span.set_status(trace.StatusCode.ERROR)
        return outcome

    async def close(self) -> None:
        """Answer what waits, and send what is left of the spans."""
        await super().close()
        sending = threading.Thread(
            target=self._spans.shutdown, daemon=True
        )  # waits ten times as long by itself
        sending.start()
        sending.join(FLUSH_SECONDS)


@contextmanager
def _phase(name: str, about: Mapping[str, int] | None = None) -> Iterator[None]:
    """A span within that of the request; nothing has spans within it, so that it need not be the current one."""
    span = tracer.start_span(name, attributes=about)
    try:
        yield
    finally:
        span.end()
