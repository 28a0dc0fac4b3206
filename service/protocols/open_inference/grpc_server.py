"""The Open Inference Protocol, version 2, over gRPC, in the event loop and with the queues of HTTP.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from functools import partial

from loupe.errors import (
    CallerGone,
    DeadlineExceeded,
    Forbidden,
    LoupeError,
    ProgramFailed,
    ShuttingDown,
    Unauthorized,
)
from loupe.runtime.ports import url_of
from service.http.bodies import BODY_SECONDS
from service.http.context import NO_KEY, subscriber
from service.http.keys import check_right, read_keys
from service.http.logs import REQUEST_ID
from service.http.middleware import log_access, valid_request_id
from service.http.shares import Shares, shared
from service.prediction.predictor import Predictor

try:
    import grpc
    from google.protobuf.message import Message

    from service.protocols.open_inference.grpc_arrivals import (
        MAX_MESSAGE_BYTES,
        OPEN_SECONDS,
        Arrivals,
    )
    from service.protocols.open_inference.grpc_calls import METHODS, Method, RpcCall, check
    from service.protocols.open_inference.grpc_streams import (
        HEALTH_SERVICE,
        MAX_STREAMS,
        SERVICE,
        Streams,
        address_of,
    )
except (ImportError, RuntimeError) as error:  # tritonclient raises RuntimeError for an old gRPC
    raise ProgramFailed(
        f"LOUPE_GRPC_PORT is set, but gRPC is not installed: {error}. "
        "Install it: pip install -e '.[grpc]'",
        code="grpc_unavailable",
    ) from error

PROTOCOL = "grpc"  # label in the metrics
PREDICTING = frozenset({"ModelInfer"})  # need the right to predict
OPEN_METHODS = frozenset({"ServerLive", "ServerReady", "Check"})  # need no API key
REQUEST_ID_KEY = "x-request-id"  # in the metadata
REFUSAL_SECONDS = 0.1  # at the stop; clients are refused before gRPC itself stops
WAITING_FACTOR = 4  # calls that may wait for their messages, as a multiple of those in flight
CLOCK_SKEW_SECONDS = 0.05  # a client's timer may end a call this much before ours
UNCOMPRESSED = 1 << 0  # bit set of accepted compressions; gRPC would decompress without a limit
OK = 200  # metrics and log have HTTP statuses for every protocol

# By HTTP status; other client errors are invalid arguments, other server errors internal.
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

logger = logging.getLogger(__name__)


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
        self._arrivals, self._open_arrivals = Arrivals(BODY_SECONDS), Arrivals(OPEN_SECONDS)
        self._in_flight = shared(maximum)
        max_bytes = min(self._settings.max_body_bytes, MAX_MESSAGE_BYTES)
        self._server = grpc.aio.server(
            options=[
                # For one process, a port in use is an error, not shared.
                ("grpc.so_reuseport", int(self._settings.processes > 1)),
                ("grpc.max_receive_message_length", max_bytes),
                ("grpc.http2.bdp_probe", 0),  # it would let megabytes arrive before calls ask
                ("grpc.compression_enabled_algorithms_bitset", UNCOMPRESSED),
            ],
            maximum_concurrent_rpcs=(WAITING_FACTOR + 1) * maximum + MAX_STREAMS,
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

        self._streams = Streams(predictor)
        self._server.add_generic_rpc_handlers(list(self._streams.handlers()))

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
        self._streams.end()
        await self._server.stop(self._settings.shutdown_timeout_seconds)

    async def _receive(
        self,
        name: str,
        method: Method,
        _messages: AsyncIterator[bytes],
        context: grpc.aio.ServicerContext,
    ) -> Message:
        """Wait for the message of a call, and answer it."""
        key = self._key_of(name, context)
        if key is None:  # it is refused, whatever its message is
            call = RpcCall(self._predictor, b"", context)
            return await self._respond(name, method, call, context)
        address = subscriber(address_of(context))
        sender = address if key == NO_KEY else key
        # Health checks have a separate share.
        caller = name if name in OPEN_METHODS else sender
        if not self._waiting.take(caller):
            problem = f"{self._waiting.share:,} calls of yours wait for their messages."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
        arrivals = self._open_arrivals if name in OPEN_METHODS else self._arrivals
        try:
            message = await arrivals.receive(sender, context)
        except EOFError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except TimeoutError as error:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
        finally:
            self._waiting.give_back(caller)
        if name not in OPEN_METHODS and not self._in_flight.has_room(caller):
            del message  # gRPC keeps the frames of an aborted call for a while
            problem = f"{self._in_flight.held:,} calls are in flight already (LOUPE_MAX_REQUESTS)."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
        self._in_flight.add(caller)
        call = RpcCall(self._predictor, message, context)
        del message  # only the call holds it, until it is parsed
        try:
            return await self._respond(name, method, call, context)
        finally:
            self._in_flight.give_back(caller)

    def _client_of(self, name: str, headers: Mapping[str, str]) -> str:
        """Return the name of the call's key, `NO_KEY` if it needs none.

        Raises:
            Forbidden: If the key may not call this method.
            Unauthorized: If the key is missing or unknown.
        """
        if self._keys is None or name in OPEN_METHODS:
            return NO_KEY
        client = self._keys.name_in(headers)
        if name in PREDICTING:
            check_right("predict", self._keys.rights[client], client)
        return client

    def _key_of(self, name: str, context: grpc.aio.ServicerContext) -> str | None:
        """Return the name of the call's key as `_client_of` does, `None` if it is refused."""
        try:
            return self._client_of(name, dict(context.invocation_metadata()))
        except (Forbidden, Unauthorized):
            return None

    async def _respond(
        self, name: str, method: Method, call: RpcCall, context: grpc.aio.ServicerContext
    ) -> Message:
        """Return the answer of a method, or end the call with its error; count either."""
        headers: dict[str, str] = dict(context.invocation_metadata())
        request_id = valid_request_id(headers.get(REQUEST_ID_KEY, ""))
        REQUEST_ID.set(request_id)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
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
        call.message = b""  # likewise
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
        """Call the method if the key is valid, memory is free, and the service is not stopping."""
        if name in OPEN_METHODS:
            return await method(call)
        call.key_name = self._client_of(name, headers)
        self._predictor.key_limits.take_request(call.key_name)
        if call.stopping:
            raise ShuttingDown()
        with self._predictor.bodies.holding(call.caller_name, len(call.message)):
            return await method(call)

    def _count(self, name: str, call: RpcCall, status: int) -> None:
        self._predictor.metrics.answered(PROTOCOL, call.model_name, status, call.key_name)
        call.ended(status)
        if self._settings.access_log:
            service = HEALTH_SERVICE if name == "Check" else SERVICE
            path = f"/{service}/{name}"
            log_access("gRPC", path, status, call.begun, call.key_name, call.client)
