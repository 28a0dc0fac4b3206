"""The Open Inference Protocol, version 2, over gRPC, in the event loop and with the queues of HTTP.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md.
Triton's methods beyond it, such as shared memory and model loading, are not implemented.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TypeAlias, TypeVar
from urllib.parse import unquote

from loupe.errors import (
    CallerGone,
    DeadlineExceeded,
    InvalidRequest,
    LoupeError,
    ModelNotFound,
    NotFound,
    ProgramFailed,
    ShuttingDown,
)
from loupe.runtime.ports import url_of
from service.http.bodies import BODY_SECONDS
from service.http.context import NO_KEY
from service.http.keys import read_keys
from service.http.logs import REQUEST_ID
from service.http.middleware import log_access, valid_request_id
from service.http.shares import LONG_BYTES, Shares, subscriber, turn
from service.http.validation import shown
from service.prediction.caller import Caller
from service.prediction.predictor import AnyCall, Predictor
from service.protocols.open_inference.rest import SERVER, describe
from service.protocols.open_inference.tensors import read_images

try:
    import grpc
    from google.protobuf.message import DecodeError, Message
    from grpc_health.v1 import health_pb2 as health
    from tritonclient.grpc import service_pb2 as pb

    from service.protocols.open_inference.messages import answer, check_message, parse_message
except (ImportError, RuntimeError) as error:  # tritonclient raises RuntimeError for an old gRPC
    raise ProgramFailed(
        f"LOUPE_GRPC_PORT is set, but gRPC is not installed: {error}. "
        "Install it: pip install -e '.[grpc]'",
        code="grpc_unavailable",
    ) from error

SERVICE = "inference.GRPCInferenceService"
PROTOCOL = "grpc"  # label in the metrics
HEALTH_SERVICE = "grpc.health.v1.Health"  # the standard health check, as Kubernetes calls it
OPEN_METHODS = frozenset({"ServerLive", "ServerReady", "Check"})  # need no API key
REQUEST_ID_KEY = "x-request-id"  # in the metadata
REFUSAL_SECONDS = 0.1  # at the stop; clients are refused before gRPC itself stops
WAITING_FACTOR = 4  # calls that may wait for their messages, as a multiple of those in flight
CLOCK_SKEW_SECONDS = 0.05  # a client's timer may end a call this much before ours
MAX_INT = 2**31 - 1  # of gRPC's options
UNCOMPRESSED = 1 << 0  # bit set of accepted compressions; gRPC would decompress without a limit
OK = 200  # metrics and log have HTTP statuses for every protocol

# By HTTP status; other client errors are invalid arguments, other server errors internal.
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

logger = logging.getLogger(__name__)

MessageType = TypeVar("MessageType", bound=Message)


def _address(context: grpc.aio.ServicerContext) -> str:
    """Return the address in a peer's name, such as `ipv6:%5B::1%5D:50000`."""
    return unquote(context.peer()).partition(":")[2].rpartition(":")[0].strip("[]")


class RpcCall(AnyCall):
    """A call over gRPC.

    Attributes:
        client: The caller's address.
        key: The name of the caller's API key.
        message: The bytes of its message.
    """

    def __init__(
        self, predictor: Predictor, message: bytes, context: grpc.aio.ServicerContext
    ) -> None:
        super().__init__(predictor)
        self.client = _address(context)
        self.key = NO_KEY
        self.message = message
        self._seconds_left: float | None = context.time_remaining()

    def read(self, kind: type[MessageType]) -> MessageType:
        """Parse the message, which the call then no longer holds, or raise `InvalidRequest`."""
        data, self.message = self.message, b""
        try:
            message: MessageType = kind.FromString(data)
        except DecodeError as error:
            name = kind.DESCRIPTOR.name
            raise InvalidRequest(f"The message is not a {name}: {error}.") from error
        return message

    def caller(self, timeout_seconds: float | None) -> Caller:
        """Return who waits, for at most the shortest of the given, the call's and our timeout."""
        limits = (self.settings.request_timeout_seconds, timeout_seconds, self._seconds_left)
        seconds = min(limit for limit in limits if limit is not None)
        # It needs no check for disconnection: gRPC cancels the task then.
        return Caller(seconds, self.begun + seconds)


async def live(call: RpcCall) -> Message:
    """Answer that the service is alive."""
    return pb.ServerLiveResponse(live=True)


async def ready(call: RpcCall) -> Message:
    """Answer whether the service is ready; it accepts no call before its models are."""
    return pb.ServerReadyResponse(ready=not call.draining)


async def check(call: RpcCall) -> Message:
    """Answer a standard health check of the server, or of this service.

    Raises:
        NotFound: If it asks for another service.
    """
    name = call.read(health.HealthCheckRequest).service
    if name not in ("", SERVICE, HEALTH_SERVICE):
        raise NotFound(f"There is no service {shown(name)}.")
    status = "NOT_SERVING" if call.draining else "SERVING"
    return health.HealthCheckResponse(status=status)


async def server(call: RpcCall) -> Message:
    """Return name, version and extensions of the server."""
    return pb.ServerMetadataResponse(**SERVER)


async def model_ready(call: RpcCall) -> Message:
    """Answer whether a model is served."""
    request = call.read(pb.ModelReadyRequest)
    try:
        with call.model(_tag(call, request.name, request.version)):
            return pb.ModelReadyResponse(ready=True)
    except ModelNotFound:
        return pb.ModelReadyResponse(ready=False)


async def metadata(call: RpcCall) -> Message:
    """Describe inputs and outputs of a model."""
    request = call.read(pb.ModelMetadataRequest)
    with call.model(_tag(call, request.name, request.version)) as served:
        return pb.ModelMetadataResponse(**describe(call, served))


async def infer(call: RpcCall) -> Message:
    """Classify images; one that cannot be read fails the request: tensors cannot hold errors."""
    if len(call.message) > LONG_BYTES:
        await turn()
    check_message(call.message, call.settings)
    message = call.read(pb.ModelInferRequest)
    with call.model(_tag(call, message.model_name, message.model_version)) as served:
        with call.decoding():
            request, values = parse_message(message)
            del message
            caller = call.caller(request.timeout_seconds)
            preparation = call.preparation(served, caller)
            reading = read_images(request.inputs[0], values, call.settings, preparation)
            del values  # only the images are needed until a decoder and the engine are free
            images = await reading
        probabilities = await call.predict(images, served, caller)
        with call.encoding():
            return answer(served.stored, request, probabilities)


def _tag(call: RpcCall, name: str, version: str) -> str:
    """Return the tag in a message: labels count as versions, no name is the default model."""
    if not version:
        return name
    return f"{name or call.models.find(None).stored.name}:{version}"


Method: TypeAlias = Callable[[RpcCall], Awaitable[Message]]

METHODS: dict[str, Method] = {
    "ServerLive": live,
    "ServerReady": ready,
    "ServerMetadata": server,
    "ModelReady": model_ready,
    "ModelMetadata": metadata,
    "ModelInfer": infer,
}


class GrpcServer:
    """The gRPC server of a predictor; made and used in its event loop.

    Args:
        predictor: The one that answers HTTP.
        port: Port to listen on, at the address of HTTP.
    """

    def __init__(self, predictor: Predictor, port: int) -> None:
        self._predictor = predictor
        self._settings = predictor.settings
        self._port = port
        self._keys = read_keys(self._settings)
        maximum = self._settings.max_requests
        self._waiting = Shares(WAITING_FACTOR * maximum, maximum)  # calls without their messages
        self._in_flight = 0
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a port in use is an error, not shared
                ("grpc.max_receive_message_length", min(self._settings.max_body_bytes, MAX_INT)),
                ("grpc.compression_enabled_algorithms_bitset", UNCOMPRESSED),
            ],
            maximum_concurrent_rpcs=(WAITING_FACTOR + 1) * maximum,
        )
        for service, methods in ((SERVICE, METHODS), (HEALTH_SERVICE, {"Check": check})):
            handlers = {
                # Unary to clients; but gRPC has no timeout for the message of a unary method.
                name: grpc.stream_unary_rpc_method_handler(
                    partial(self._receive, name, method),
                    response_serializer=lambda message: message.SerializeToString(),
                )
                for name, method in methods.items()
            }
            self._server.add_generic_rpc_handlers(
                [grpc.method_handlers_generic_handler(service, handlers)]
            )

    async def start(self) -> None:
        """Listen, or raise `ProgramFailed` if another program uses the port."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        try:
            self._server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise ProgramFailed(
                f"Cannot listen on {host}:{self._port}: {error}. "
                "Choose another port: LOUPE_GRPC_PORT.",
                code="address_in_use",
            ) from error
        await self._server.start()
        logger.info("gRPC on %s", url_of(self._settings.host, self._port, "grpc"))

    async def stop(self) -> None:
        """Refuse new calls and wait for those in flight.

        gRPC answers `CANCELLED` to a call that arrives while it stops, so refuse calls first.
        """
        await asyncio.sleep(REFUSAL_SECONDS)
        await self._server.stop(self._settings.shutdown_timeout_seconds)

    async def _receive(
        self,
        name: str,
        method: Method,
        messages: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext,
    ) -> Message:
        """Wait for the message of a call, and answer it."""
        address = _address(context)
        # Health checks have a share of their own.
        caller = name if name in OPEN_METHODS else subscriber(address)
        if not self._waiting.take(caller):
            problem = f"{self._waiting.share:,} calls of yours wait for their messages."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
        try:
            message = await asyncio.wait_for(anext(messages), BODY_SECONDS)
        except (TimeoutError, StopAsyncIteration):
            problem = f"No message within {BODY_SECONDS:g} s."
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, problem)
        finally:
            self._waiting.give_back(caller)
        if self._in_flight >= self._settings.max_requests and name not in OPEN_METHODS:
            problem = f"{self._in_flight:,} calls are in flight already (LOUPE_MAX_REQUESTS)."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
        self._in_flight += 1
        try:
            return await self._respond(name, method, message, context)
        finally:
            self._in_flight -= 1

    async def _respond(
        self, name: str, method: Method, message: bytes, context: grpc.aio.ServicerContext
    ) -> Message:
        """Return the answer of a method, or end the call with its error; count either."""
        headers: dict[str, str] = dict(context.invocation_metadata())
        request_id = valid_request_id(headers.get(REQUEST_ID_KEY, ""))
        REQUEST_ID.set(request_id)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        call = RpcCall(self._predictor, message, context)
        is_open = name in OPEN_METHODS
        outcome: Message | LoupeError
        try:
            with nullcontext() if is_open else self._predictor.rpc(SERVICE, name, headers):
                try:
                    outcome = await self._admit(name, method, call, headers)
                except Exception as problem:  # noqa: BLE001 - `failure` logs unexpected ones
                    outcome = self._predictor.failure(name, problem)
        except asyncio.CancelledError:
            left: float | None = context.time_remaining()
            is_late = left is not None and left < CLOCK_SKEW_SECONDS
            error = DeadlineExceeded if is_late else CallerGone
            self._predictor.metrics.rejected(error.code)
            self._count(name, call, error.status)
            raise
        self._count(name, call, outcome.status if isinstance(outcome, LoupeError) else OK)
        if isinstance(outcome, LoupeError):
            is_client_error = outcome.status < 500
            codes = grpc.StatusCode
            other = codes.INVALID_ARGUMENT if is_client_error else codes.INTERNAL
            await context.abort(CODES.get(outcome.status, other), outcome.message)
        return outcome

    async def _admit(
        self, name: str, method: Method, call: RpcCall, headers: Mapping[str, str]
    ) -> Message:
        """Check the API key, then call the method, unless the service is stopping."""
        if name not in OPEN_METHODS:
            if self._keys is not None:
                call.key = self._keys.name_in(headers)
            if call.stopping:
                raise ShuttingDown()
        return await method(call)

    def _count(self, name: str, call: RpcCall, status: int) -> None:
        self._predictor.metrics.answered(PROTOCOL, call.model_name, status, call.key)
        if self._settings.access_log:
            service = HEALTH_SERVICE if name == "Check" else SERVICE
            path = f"/{service}/{name}"
            log_access("gRPC", path, status, call.begun, call.key, call.client)
