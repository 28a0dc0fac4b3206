"""OpenTelemetry spans: one per HTTP request or gRPC call, with one for each of its phases.

Imported only if traces are exported. OpenTelemetry's SDK reads its own variables for exporter,
sampler, service name and limits. Attributes follow its conventions; others begin with `loupe.`.
Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe import __version__
from loupe.errors import LoupeError
from service import health
from service.http.context import context_of
from service.http.logs import REQUEST_ID, TRACE_ID

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
    raise LoupeError(
        "Traces are configured (OTEL_EXPORTER_OTLP_…), but OpenTelemetry's exporter is missing: "
        f"{error}. Install it: pip install -e '.[tracing]'",
        code="tracing_unavailable",
    ) from error

FLUSH_SECONDS = 3  # at shutdown, for a collector that does not answer


class Tracing:
    """Records spans and sends them to the collector in the background.

    All methods refer to the span of the current request or call, and do nothing if it is not
    sampled.
    """

    def __init__(self) -> None:
        defaults = Resource.create({SERVICE_NAME: "loupe", SERVICE_VERSION: __version__})
        resource = defaults.merge(OTELResourceDetector().detect())  # the environment wins
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("loupe", __version__)

    @contextmanager
    def server_span(
        self, name: str, headers: Mapping[str, str], attributes: Mapping[str, str]
    ) -> Iterator[trace.Span]:
        """Open the span of a request or call, inside the trace of its client."""
        span = self._tracer.start_span(
            name, propagate.extract(headers), trace.SpanKind.SERVER, attributes
        )
        TRACE_ID.set(trace.format_trace_id(span.get_span_context().trace_id))
        with trace.use_span(span, end_on_exit=True):
            yield span

    @contextmanager
    def rpc(self, service: str, method: str, headers: Mapping[str, str]) -> Iterator[None]:
        """Open the span of a gRPC call."""
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with self.server_span(f"{service}/{method}", headers, attributes) as span:
            span.set_attribute("loupe.request_id", REQUEST_ID.get() or "")
            yield

    @contextmanager
    def phase(self, name: str, attributes: Mapping[str, int] | None = None) -> Iterator[None]:
        """Open a span for one phase."""
        with self._tracer.start_as_current_span(
            name, attributes=attributes, record_exception=False, set_status_on_exception=False
        ):
            yield

    def set_route(self, request: Request) -> None:
        """Name the span after the route, if there is one."""
        path = getattr(request.scope.get("route"), "path_format", None)
        if path is not None:
            span = trace.get_current_span()
            span.update_name(f"{request.method} {path}")
            span.set_attribute("http.route", path)

    def set_model(self, tag: str) -> None:
        """Record the model that answers."""
        trace.get_current_span().set_attribute("loupe.model", tag)

    def record(self, error: LoupeError) -> None:
        """Record an error; only the service's own mark the span as failed."""
        span = trace.get_current_span()
        span.set_attribute("loupe.code", error.code)
        if error.status >= 500:
            span.set_status(trace.StatusCode.ERROR)

    def close(self) -> None:
        """Send the remaining spans, but wait only `FLUSH_SECONDS`; the SDK would wait longer."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(FLUSH_SECONDS)


class TracingMiddleware:
    """Opens a span for every request except health checks."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app = app
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http" or scope["path"] in health.PATHS:
            await self._app(scope, receive, send)
            return
        attributes = {
            "http.request.method": scope["method"],
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        with self._tracing.server_span(scope["method"], Headers(scope=scope), attributes) as span:

            async def send_and_record(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                await send(message)

            await self._app(scope, receive, send_and_record)
            span.set_attribute("loupe.request_id", context_of(scope).request_id)
