"""Traces, as an OpenTelemetry collector receives them."""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from tritonclient.utils import InferenceServerException

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import RunningService, free_port, run, serving, until

DIGIT = pictures.png(pictures.digits(1)[0])
CALLERS_SPAN = "b7ad6b7169203331"
AT_ONCE = {"OTEL_BSP_SCHEDULE_DELAY": 50}  # milliseconds
AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": 600_000}


class Collector:
    """A collector of spans over OTLP."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.resources: list[Resource] = []
        self.spans: list[Span] = []

    def take(self, body: bytes) -> None:
        for sent in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(sent.resource)
            self.spans += [span for scope in sent.scope_spans for span in scope.spans]

    def of(self, trace_id: str) -> dict[str, Span]:
        """Return the spans of a trace by name, once the request's span has arrived."""
        return until(
            lambda: self._whole([span for span in self.spans if span.trace_id.hex() == trace_id])
        )

    def _whole(self, spans: list[Span]) -> dict[str, Span]:
        is_whole = any(span.kind == Span.SPAN_KIND_SERVER for span in spans)
        return {span.name: span for span in spans} if is_whole else {}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/v1/traces":
                running.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = Collector(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield running
        server.shutdown()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    collector: Collector,
    grpc_port: int,
    digits_model: StoredModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    """Run a service that sends spans immediately and logs requests as JSON."""
    log_settings = {"LOUPE_ACCESS_LOG": "true", "LOUPE_LOG_FORMAT": "json"}
    settings = {"LOUPE_MODEL": digits_model.tag, "LOUPE_GRPC_PORT": grpc_port, **log_settings}
    log = tmp_path_factory.mktemp("traced") / "log"
    with serving(
        log, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **AT_ONCE, **settings
    ) as service:
        yield service


@pytest.fixture(scope="module")
def grpc_port() -> int:
    """Return the gRPC port of the traced service."""
    return free_port()


@pytest.fixture
def trace_id() -> str:
    """Return a new trace ID."""
    return os.urandom(16).hex()


def within(trace_id: str) -> dict[str, str]:
    """Return the headers that place a request into a trace."""
    return {"traceparent": f"00-{trace_id}-{CALLERS_SPAN}-01"}


def told(attributes: list[KeyValue]) -> dict[str, object]:
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value"))) for each in attributes
    }


def test_request_and_its_phases_are_spans_in_the_clients_trace(
    traced: RunningService, collector: Collector, digits_model: StoredModel, trace_id: str
) -> None:
    headers = {**within(trace_id), "X-Request-ID": "order-66"}
    assert (
        httpx.post(f"{traced.url}/predict?top_k=1", content=DIGIT, headers=headers).status_code
        == 200
    )
    spans = collector.of(trace_id)

    request = spans.pop("POST /predict")
    assert (request.kind, request.parent_span_id.hex()) == (Span.SPAN_KIND_SERVER, CALLERS_SPAN)
    assert told(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/predict",
        "http.response.status_code": 200,
        "url.path": "/predict",
        "url.scheme": "http",
        "loupe.model": digits_model.tag,
        "loupe.request_id": "order-66",
    }
    assert list(spans) == ["decode", "predict", "encode"]
    assert {span.parent_span_id for span in spans.values()} == {request.span_id}
    assert told(spans["predict"].attributes) == {"loupe.images": 1}
    times = [
        time
        for span in spans.values()
        for time in (span.start_time_unix_nano, span.end_time_unix_nano)
    ]
    assert times == sorted(times)


def test_span_has_the_routes_pattern(
    traced: RunningService, collector: Collector, trace_id: str
) -> None:
    httpx.get(f"{traced.url}/v2/models/digits", headers=within(trace_id))
    (request,) = collector.of(trace_id).values()

    assert request.name.startswith("GET /v2/models/{")
    assert told(request.attributes)["http.route"] == request.name.removeprefix("GET ")
    assert told(request.attributes)["url.path"] == "/v2/models/digits"


def test_refusal_has_its_code_and_is_no_failure(
    traced: RunningService, collector: Collector, trace_id: str
) -> None:
    httpx.post(f"{traced.url}/predict", content=b"no image", headers=within(trace_id))
    spans = collector.of(trace_id)

    attributes = told(spans["POST /predict"].attributes)
    assert (attributes["http.response.status_code"], attributes["loupe.code"]) == (
        422,
        "invalid_image",
    )
    assert list(spans) == ["decode", "POST /predict"]
    assert {span.status.code for span in spans.values()} == {Status.STATUS_CODE_UNSET}


def test_error_of_the_service_marks_the_span_as_failed(
    traced: RunningService, collector: Collector, trace_id: str
) -> None:
    headers = {**within(trace_id), "X-Request-Timeout": "0.000001"}
    assert httpx.post(f"{traced.url}/predict", content=DIGIT, headers=headers).status_code == 504

    assert collector.of(trace_id)["POST /predict"].status.code == Status.STATUS_CODE_ERROR


def test_span_without_a_route_has_the_method_as_name(
    traced: RunningService, collector: Collector, trace_id: str
) -> None:
    httpx.get(f"{traced.url}/nowhere", headers=within(trace_id))
    (request,) = collector.of(trace_id).values()

    assert request.name == "GET"
    assert "http.route" not in told(request.attributes)


def test_request_without_a_trace_starts_one_that_is_logged(
    traced: RunningService, collector: Collector
) -> None:
    httpx.get(f"{traced.url}/models", headers={"X-Request-ID": "begins-a-trace"})

    def logged() -> list[dict[str, str]]:
        lines = [
            json.loads(line) for line in traced.log.read_text().splitlines() if line.startswith("{")
        ]
        return [line for line in lines if line.get("request_id") == "begins-a-trace"]

    (line,) = until(logged)
    request = collector.of(line["trace_id"])["GET /models"]
    assert not request.parent_span_id
    assert told(request.attributes)["loupe.request_id"] == "begins-a-trace"


@pytest.mark.usefixtures("traced")
def test_grpc_call_is_a_span_in_the_clients_trace(
    collector: Collector, grpc_port: int, trace_id: str
) -> None:
    with triton.InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        client.is_server_ready(headers=within(trace_id))
        with pytest.raises(InferenceServerException):
            client.get_model_metadata(
                "nobody", headers={**within(trace_id), "x-request-id": "order-66"}
            )
    ((name, call),) = collector.of(trace_id).items()

    assert name == "inference.GRPCInferenceService/ModelMetadata"
    assert (call.kind, call.parent_span_id.hex()) == (Span.SPAN_KIND_SERVER, CALLERS_SPAN)
    assert call.status.code == Status.STATUS_CODE_UNSET
    assert told(call.attributes) == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelMetadata",
        "loupe.code": "model_not_found",
        "loupe.request_id": "order-66",
    }


def test_health_checks_are_not_traced(
    traced: RunningService, collector: Collector, trace_id: str
) -> None:
    httpx.get(f"{traced.url}/readyz", headers=within(trace_id))
    httpx.get(f"{traced.url}/models", headers=within(trace_id))

    assert list(collector.of(trace_id)) == ["encode", "GET /models"]


def test_spans_are_sent_before_the_service_exits(
    tmp_path: Path, digits_model: StoredModel, trace_id: str
) -> None:
    with (
        collecting() as collector,
        serving(
            tmp_path / "log",
            LOUPE_MODEL=digits_model.tag,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{collector.endpoint}/v1/traces",
            OTEL_SERVICE_NAME="digits",
            **AT_THE_END,
        ) as service,
    ):
        httpx.post(f"{service.url}/predict", content=DIGIT, headers=within(trace_id))
        assert not collector.spans
        service.process.send_signal(signal.SIGTERM)

        assert service.process.wait(30) == 0
        assert "POST /predict" in collector.of(trace_id)
        assert told(collector.resources[0].attributes)["service.name"] == "digits"


def test_default_service_name_is_loupe(
    traced: RunningService, collector: Collector, trace_id: str
) -> None:
    httpx.get(f"{traced.url}/models", headers=within(trace_id))
    collector.of(trace_id)

    assert told(collector.resources[0].attributes)["service.name"] == "loupe"


def test_silent_collector_delays_nothing(tmp_path: Path, digits_model: StoredModel) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        serving(
            tmp_path / "log",
            LOUPE_MODEL=digits_model.tag,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
            OTEL_BSP_MAX_QUEUE_SIZE=8,
            OTEL_BSP_MAX_EXPORT_BATCH_SIZE=4,
            **AT_ONCE,
        ) as service,
        httpx.Client(base_url=service.url, timeout=5) as client,
    ):
        assert {client.post("/predict", content=DIGIT).status_code for _ in range(50)} == {200}
        service.process.send_signal(signal.SIGTERM)

        assert service.process.wait(15) == 0


def test_sdk_is_not_imported_without_tracing(tmp_path: Path, digits_model: StoredModel) -> None:
    with serving(
        tmp_path / "log", LOUPE_MODEL=digits_model.tag, PYTHONPROFILEIMPORTTIME=1
    ) as service:
        assert httpx.post(f"{service.url}/predict", content=DIGIT).status_code == 200
        imported = {
            line.rpartition("|")[2].strip() for line in service.log.read_text().splitlines()
        }

    assert "service.http.middleware" in imported
    assert not {
        name
        for name in imported
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))
    }
    assert "service.tracing" not in imported


def test_missing_exporter_stops_the_start(tmp_path: Path, digits_model: StoredModel) -> None:
    missing = tmp_path / "opentelemetry" / "exporter" / "__init__.py"
    missing.parent.mkdir(parents=True)
    missing.write_text("raise ModuleNotFoundError(\"No module named 'opentelemetry.exporter'\")")
    endpoint = "http://127.0.0.1:4318"
    ended = run(
        "serve", "--port", free_port(), OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, PYTHONPATH=tmp_path
    )

    assert ended.returncode == 1
    words = " ".join(ended.stderr.split())
    assert "tracing_unavailable" in words
    assert "No module named 'opentelemetry.exporter'" in words
    assert "pip install -e '.[tracing]'" in words
    assert "Traceback" not in ended.stderr
