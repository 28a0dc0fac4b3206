"""The Open Inference Protocol, version 2, over gRPC: a server beside BentoML's, in the same event loop, with the same models and queues.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_grpc.md. What Triton's service has beyond
it, as shared memory and the loading of models, is not implemented, and answered so.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TypeAlias, TypeVar

from loupe.errors import LoupeError
from loupe.old_errors.core import AddressInUse, ModelNotFound
from loupe.old_errors.service import CallerGone, DeadlineExceeded, GrpcUnavailable, InvalidRequest
from service.http.guard import checked_request_id, log_access
from service.http.keys import read_keys
from service.http.logs import REQUEST_ID
from service.metrics import NO_KEY
from service.prediction.caller import Caller
from service.prediction.predictor import AnyCall, Predictor
from service.protocols.open_inference.requests import read_images
from service.protocols.open_inference.rest import SERVER, description

try:
    import grpc
    from google.protobuf.message import DecodeError, Message
    from tritonclient.grpc import service_pb2 as pb

    from service.protocols.open_inference.messages import answer, parse_inference
except (
    ImportError,
    RuntimeError,
) as error:  # the second is tritonclient's, also of a gRPC that is too old for it
    raise GrpcUnavailable(str(error)) from error

SERVICE = "inference.GRPCInferenceService"
PROTOCOL = "grpc"  # in the metrics
OPEN_METHODS = frozenset({"ServerLive", "ServerReady"})  # whether it is well, everybody may ask
REQUEST_ID_KEY = "x-request-id"  # of metadata
EARLY_SECONDS = 0.05  # by which a client's clock may end a call before ours does
MAX_INT = 2**31 - 1  # gRPC's options are no larger
UNCOMPRESSED = (
    1 << 0
)  # of the compressions, a bit each, that gRPC is to take: none, since it would unpack without a limit

OK = 200  # in metrics and log, which have HTTP's status for every protocol

# By the status that HTTP has for an error; other mistakes of callers are invalid arguments, and the rest is ours.
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    499: grpc.StatusCode.CANCELLED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

logger = logging.getLogger(
    "bentoml.loupe.grpc"
)  # below BentoML's logger, so that its handlers apply

MessageType = TypeVar("MessageType", bound=Message)


class RpcCall(AnyCall):
    """A call over gRPC that is being answered.

    Attributes:
        key: The name of its caller's API key.
    """

    def __init__(
        self, predictor: Predictor, message: bytes, context: grpc.aio.ServicerContext
    ) -> None:
        super().__init__(predictor)
        self.key = NO_KEY
        self._message = message
        self._seconds_left: float | None = context.time_remaining()

    def read(self, kind: type[MessageType]) -> MessageType:
        """The call's message.

        Raises:
            InvalidRequest: If it is none of that kind.
        """
        try:
            message: MessageType = kind.FromString(self._message)
        except DecodeError as error:
            raise InvalidRequest(
                f"a {kind.DESCRIPTOR.name}", f"bytes that are none ({error})"
            ) from error
        return message

    def caller(self, timeout_seconds: float | None) -> Caller:
        """Who waits for the answer; `timeout_seconds` is what the message says of its time, if it does."""
        limits = (self.settings.request_timeout_seconds, timeout_seconds, self._seconds_left)
        seconds = min(limit for limit in limits if limit is not None)
        # Nobody need ask whether the caller has gone: gRPC cancels the call's task then.
        return Caller(seconds, self.begun + seconds)


async def live(call: RpcCall) -> Message:
    """That the service answers."""
    return pb.ServerLiveResponse(live=True)


async def ready(call: RpcCall) -> Message:
    """Whether models are served: the service takes no call before, and has not been told to stop."""
    return pb.ServerReadyResponse(ready=not call.stopping)


async def server(call: RpcCall) -> Message:
    """What answers here."""
    return pb.ServerMetadataResponse(**SERVER)


async def model_ready(call: RpcCall) -> Message:
    """Whether a model is served."""
    asked = call.read(pb.ModelReadyRequest)
    try:
        with call.model(_tag(call, asked.name, asked.version)):
            return pb.ModelReadyResponse(ready=True)
    except ModelNotFound:
        return pb.ModelReadyResponse(ready=False)


async def metadata(call: RpcCall) -> Message:
    """What a model takes and what it answers with."""
    asked = call.read(pb.ModelMetadataRequest)
    with call.model(_tag(call, asked.name, asked.version)) as served:
        return pb.ModelMetadataResponse(**description(call, served))


async def infer(call: RpcCall) -> Message:
    """Classes of the images in a request; one that cannot be used refuses it, since a tensor has no place for errors."""
    request = call.read(pb.ModelInferRequest)
    with call.model(_tag(call, request.model_name, request.model_version)) as served:
        with call.decoding():
            inference = parse_inference(request)
            caller = call.caller(inference.timeout_seconds)
            images = await read_images(
                inference.images, call.settings, call.preparation(served, caller)
            )
        probabilities = await call.predict(images, served, caller)
        with call.encoding():
            return answer(served.stored, inference, probabilities)


def _tag(call: RpcCall, name: str, version: str) -> str:
    """The model that a message names; labels, as `production`, are versions too, and no name is that of the default model."""
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
    """What answers gRPC for a predictor; made and used in its event loop.

    Args:
        predictor: The one that answers HTTP.
        port: To listen on, at the address that HTTP has.

    Raises:
        InvalidSetting: If the API keys are none.
    """

    def __init__(self, predictor: Predictor, port: int) -> None:
        self._predictor = predictor
        self._settings = predictor.settings
        self._port = port
        self._keys = read_keys(self._settings)
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a port of somebody else is an error, and not shared
                ("grpc.max_receive_message_length", min(self._settings.max_body_bytes, MAX_INT)),
                ("grpc.compression_enabled_algorithms_bitset", UNCOMPRESSED),
            ],
            maximum_concurrent_rpcs=self._settings.max_requests,
        )
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                partial(self._respond, name, method),
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, method in METHODS.items()
        }
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(SERVICE, handlers)]
        )

    async def start(self) -> None:
        """Listen.

        Raises:
            AddressInUse: If something else does.
        """
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        try:
            self._server.add_insecure_port(f"{host}:{self._port}")
        except RuntimeError as error:
            raise AddressInUse(
                self._settings.host, self._port, str(error), "LOUPE_GRPC_PORT"
            ) from error
        await self._server.start()
        logger.info("gRPC on %s:%d", host, self._port)

    async def stop(self) -> None:
        """Refuse what comes, and wait for what is in hand."""
        await self._server.stop(self._settings.shutdown_timeout_seconds)

    async def _respond(
        self, name: str, method: Method, message: bytes, context: grpc.aio.ServicerContext
    ) -> Message:
        """What a method answers, or the error that it ends with; either is counted."""
        headers: dict[str, str] = dict(context.invocation_metadata())
        request_id = checked_request_id(headers.get("x-request-id", ""))
        REQUEST_ID.set(request_id)
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        call = RpcCall(self._predictor, message, context)
        try:
            with (
                nullcontext()
                if name in OPEN_METHODS
                else self._predictor.rpc(SERVICE, name, headers)
            ):
                outcome = await self._predictor.outcome(
                    name, self._admit(name, method, call, headers)
                )
        except asyncio.CancelledError:  # the caller has gone, or its deadline is over
            left: float | None = context.time_remaining()
            gone = DeadlineExceeded if left is not None and left < EARLY_SECONDS else CallerGone
            self._predictor.metrics.rejected(gone.code)
            self._count(name, call, gone.status)
            raise
        self._count(name, call, outcome.status if isinstance(outcome, LoupeError) else OK)
        if isinstance(outcome, LoupeError):
            unlike = (
                grpc.StatusCode.INVALID_ARGUMENT
                if outcome.status < 500
                else grpc.StatusCode.INTERNAL
            )
            await context.abort(CODES.get(outcome.status, unlike), outcome.message)
        return outcome

    async def _admit(
        self, name: str, method: Method, call: RpcCall, headers: Mapping[str, str]
    ) -> Message:
        if self._keys is not None and name not in OPEN_METHODS:
            call.key = self._keys.name_in(headers)
        return await method(call)

    def _count(self, name: str, call: RpcCall, status: int) -> None:
        self._predictor.metrics.answered(PROTOCOL, call.model_name, status, call.key)
        if self._settings.access_log:
            log_access("gRPC", f"/{SERVICE}/{name}", status, call.begun, call.key)
