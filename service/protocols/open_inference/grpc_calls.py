"""The methods of the protocol over gRPC, and the calls that they answer.

Source: https://github.com/triton-inference-server/common, protobuf/grpc_service.proto. Triton's
methods for shared memory, streams, traces and logs are not implemented.
"""

from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2 as health
from tritonclient.grpc import service_pb2 as pb

from loupe.errors import ContentTooLarge, InvalidRequest, ModelNotFound, NotFound
from service.http.context import NO_KEY, subscriber
from service.http.shares import LONG_BYTES, turn
from service.http.validation import shown
from service.prediction.caller import Caller
from service.prediction.predictor import AnyCall, Predictor
from service.protocols.open_inference import descriptions
from service.protocols.open_inference.grpc_streams import address_of, status_of
from service.protocols.open_inference.messages import (
    MAX_UNCHECKED_BYTES,
    answer,
    check_message,
    parse_message,
)
from service.protocols.open_inference.tensors import read_images

MessageType = TypeVar("MessageType", bound=Message)


class RpcCall(AnyCall):
    """A call over gRPC.

    Attributes:
        client: The caller's address.
        message: The bytes of its message.
    """

    def __init__(
        self, predictor: Predictor, message: bytes, context: grpc.aio.ServicerContext
    ) -> None:
        super().__init__(predictor)
        self.client = address_of(context)
        self.message = message
        self._seconds_left: float | None = context.time_remaining()

    @property
    def caller_name(self) -> str:
        """The caller whose share of memory and queue the call takes."""
        return subscriber(self.client) if self.key_name == NO_KEY else self.key_name

    def read(self, kind: type[MessageType], max_bytes: int = MAX_UNCHECKED_BYTES) -> MessageType:
        """Parse the message, and release its bytes.

        Raises:
            ContentTooLarge: If it is longer than a message of its kind can be.
            InvalidRequest: If it is damaged.
        """
        data, self.message = self.message, b""
        if len(data) > max_bytes:
            raise ContentTooLarge(f"A {kind.DESCRIPTOR.name} has at most {max_bytes:,} bytes.")
        try:
            message: MessageType = kind.FromString(data)
        except DecodeError as error:
            name = kind.DESCRIPTOR.name
            raise InvalidRequest(f"The message is not a {name}: {error}.") from error
        return message

    def caller(self, timeout_seconds: float | None) -> Caller:
        """Return the caller, with the shortest of three timeouts: this, the call's and ours."""
        limits = (self.settings.request_timeout_seconds, timeout_seconds, self._seconds_left)
        seconds = min(limit for limit in limits if limit is not None)
        # It needs no check for disconnection: gRPC cancels the task then.
        return Caller(seconds, self.begun + seconds, name=self.caller_name)


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
    status = status_of(name, call.draining)
    if status == "SERVICE_UNKNOWN":
        raise NotFound(f"There is no service {shown(name)}.")
    return health.HealthCheckResponse(status=status)


async def server(call: RpcCall) -> Message:
    """Return name, version and extensions of the server."""
    return pb.ServerMetadataResponse(**descriptions.SERVER)


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
        versions = call.models.versions(served.stored.name)
        return pb.ModelMetadataResponse(**descriptions.metadata(served, versions, call.settings))


async def configuration(call: RpcCall) -> Message:
    """Return the configuration of a model."""
    request = call.read(pb.ModelConfigRequest)
    with call.model(_tag(call, request.name, request.version)) as served:
        return pb.ModelConfigResponse(config=descriptions.configuration(served, call.settings))


async def statistics(call: RpcCall) -> Message:
    """Return the statistics of a version, of all versions of a name, or of all names."""
    request = call.read(pb.ModelStatisticsRequest)
    tag = _tag(call, request.name, request.version)
    models = call.models.versions(tag) if tag else call.models.all()
    return pb.ModelStatisticsResponse(**descriptions.statistics(models))


async def index(call: RpcCall) -> Message:
    """List the served versions; all of them are ready."""
    call.read(pb.RepositoryIndexRequest)
    return pb.RepositoryIndexResponse(models=descriptions.index(call.models.all()))


async def load(call: RpcCall) -> Message:
    """Refuse to load a model."""
    raise descriptions.control_refused(call.read(pb.RepositoryModelLoadRequest).model_name)


async def unload(call: RpcCall) -> Message:
    """Refuse to unload a model."""
    raise descriptions.control_refused(call.read(pb.RepositoryModelUnloadRequest).model_name)


async def infer(call: RpcCall) -> Message:
    """Classify images; one that cannot be read fails the request: tensors cannot hold errors."""
    if len(call.message) > LONG_BYTES:
        await turn()
    check_message(call.message, call.settings)
    message = call.read(pb.ModelInferRequest, len(call.message))
    with call.model(_tag(call, message.model_name, message.model_version)) as served:
        with call.decoding():
            request, values = parse_message(message)
            del message
            caller = call.caller(request.timeout_seconds)
            preparation = call.preparation(served, caller)
            reading = read_images(request.inputs[0], values, call.settings, preparation)
            del values  # only the images are needed until a decoder and the engine are free
            images = await reading
        outputs = await call.predict(images, served, caller)
        with call.encoding():
            blank = served.stored.card.input.blank(images)
            return answer(served.stored, request, outputs, blank)


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
    "ModelConfig": configuration,
    "ModelStatistics": statistics,
    "RepositoryIndex": index,
    "RepositoryModelLoad": load,
    "RepositoryModelUnload": unload,
}
