"""Streams of gRPC's standard services: changes of the health, and reflection.

gRPC's servicer for health checks stores a status; this one asks the predictor.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeAlias
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2 as health
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.http.context import subscriber
from service.http.shares import Shares, part
from service.prediction.predictor import Predictor
from service.protocols.open_inference.grpc_arrivals import OPEN_SECONDS, Arrivals
from service.protocols.open_inference.messages import MAX_UNCHECKED_BYTES

SERVICE = "inference.GRPCInferenceService"
HEALTH_SERVICE = "grpc.health.v1.Health"  # as Kubernetes calls it
REFLECTION_SERVICE = "grpc.reflection.v1alpha.ServerReflection"  # as grpcurl calls it
SERVICES = (SERVICE, HEALTH_SERVICE, REFLECTION_SERVICE)
MAX_STREAMS, STREAMS_SHARE = 100, 20  # at a time, of all callers and of one
POLL_SECONDS = 0.05  # until a watcher sees that the service drains

Answers: TypeAlias = Callable[[AsyncIterator[bytes]], AsyncIterator[Message]]


def address_of(context: grpc.aio.ServicerContext) -> str:
    """Return the address in a peer's name, such as `ipv6:%5B::1%5D:50000`."""
    return unquote(context.peer()).partition(":")[2].rpartition(":")[0].strip("[]")


def status_of(service: str, draining: bool) -> str:
    """Return the health of a service, or of the server if it is empty."""
    if service not in ("", *SERVICES):
        return "SERVICE_UNKNOWN"
    return "NOT_SERVING" if draining else "SERVING"


class Streams:
    """The streams that are open. They need no API key.

    Args:
        predictor: Says whether the service drains or stops.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._arrivals = Arrivals(OPEN_SECONDS)
        processes = predictor.settings.processes
        self._slots = Shares(part(MAX_STREAMS, processes), part(STREAMS_SHARE, processes))
        self._open: set[asyncio.Task[object] | None] = set()
        self._reflection = reflection.aio.ReflectionServicer(SERVICES)

    def handlers(self) -> Iterable[grpc.GenericRpcHandler]:
        """Return the handlers of the standard services' streams."""
        for service, method, answers in (
            (HEALTH_SERVICE, "Watch", self._watch),
            (REFLECTION_SERVICE, "ServerReflectionInfo", self._reflect),
        ):
            handler = grpc.stream_stream_rpc_method_handler(
                partial(self._run, answers),
                response_serializer=lambda message: message.SerializeToString(),
            )
            yield grpc.method_handlers_generic_handler(service, {method: handler})

    def end(self) -> None:
        """End all streams, whose clients would delay the shutdown."""
        for task in self._open:
            if task is not None:
                task.cancel()

    async def _run(
        self, answers: Answers, _messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[Message]:
        caller, task = subscriber(address_of(context)), asyncio.current_task()
        if not self._slots.take(caller):
            slots = self._slots
            problem = f"{slots.share} streams of yours are open, or {slots.total} of all callers."
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, problem)
        self._open.add(task)
        try:
            async for answer in answers(self._received(caller, context)):
                yield answer
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Cannot read: {error}.")
        except asyncio.CancelledError:
            if self._predictor.stopping:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "The service is shutting down.")
            raise
        finally:
            self._open.discard(task)
            self._slots.give_back(caller)

    async def _watch(self, messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        """Yield the health of a service, now and when it changes."""
        async for message in messages:
            service = health.HealthCheckRequest.FromString(message).service
            status = status_of(service, self._predictor.draining)
            yield health.HealthCheckResponse(status=status)
            while (now := status_of(service, self._predictor.draining)) == status:
                await asyncio.sleep(POLL_SECONDS)
            yield health.HealthCheckResponse(status=now)
            await asyncio.Event().wait()  # it does not serve again

    def _reflect(self, messages: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        """Yield the descriptions that a client asks for."""
        kind = reflection_pb2.ServerReflectionRequest
        requests = (kind.FromString(message) async for message in messages)
        answers: AsyncIterator[Message] = self._reflection.ServerReflectionInfo(requests, None)
        return answers

    async def _received(
        self, caller: str, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        """Yield messages until the client ends the stream or is silent for too long."""
        with suppress(EOFError, TimeoutError):
            while True:
                message = await self._arrivals.receive(caller, context)
                if len(message) > MAX_UNCHECKED_BYTES:
                    del message  # gRPC keeps the frames of an aborted call for a while
                    raise DecodeError(f"it has more than {MAX_UNCHECKED_BYTES:,} bytes")
                yield message
