"""Start the service: BentoML's app in a process of its own, without the supervisor that `bentoml serve` puts before it.

That supervisor has one child to watch, needs as long to start as the service itself, and takes 100 MB. Whoever runs Loupe (compose,
systemd, `loupe up`) watches processes already.
"""

import logging
import signal
import socket
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.applications import Starlette

from loupe.models.store import find_model, verify
from loupe.runtime.ports import BACKLOG, listen
from loupe.settings import Settings
from service.http.connection import IDLE_SECONDS, Connection, InHand
from service.http.guard import Guard
from service.http.keys import read_keys
from service.http.logs import set_up_log
from service.prediction.predictor import Routes

LOOPBACK = ("127.0.0.1", "::1", "localhost")

ACCEPTED_AT_ONCE = 16  # new connections

logger = logging.getLogger(
    "bentoml.loupe.server"
)  # below BentoML's logger, so that its handlers apply


def serve(settings: Settings) -> None:
    """Serve until a signal stops it, and finish the requests in hand.

    Raises:
        ProgramFailed: If something listens there already.
        GrpcUnavailable: If a port for gRPC is set, and gRPC is not installed.
        TracingUnavailable: If traces are asked for, and what sends them is not installed.
        ModelNotFound: If there is no model to serve.
        InvalidSetting: If the API keys are none.
        ModelCorrupted: If its files are not those that were saved.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    set_up_log(settings.log_format)
    if read_keys(settings) is None and settings.host not in LOOPBACK:
        logger.warning(
            "listening on %s without API keys: everybody who reaches it may call (LOUPE_API_KEYS)",
            settings.host,
        )
    verify(
        find_model(settings.default_tag)
    )  # an error here is one line, and in the server's start a traceback
    listening = listen(settings.host, settings.port)
    if settings.grpc_port is not None:
        import service.protocols.open_inference.grpc_server  # noqa: F401 - an error here is one line, as above

        listen(settings.host, settings.grpc_port, "LOUPE_GRPC_PORT").close()
    from service.app import Loupe, routes

    BentoMLContainer.tracer_provider.set(
        None
    )  # BentoML would load OpenTelemetry's SDK, for what is dropped below

    config = uvicorn.Config(
        without_timeout(Loupe.to_asgi()),  # type: ignore[attr-defined]
        http=partial(Connection, in_hand=InHand(settings, routes)),  # type: ignore[arg-type]
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
    )
    # The event loop accepts one connection per socket and round, and a round takes long when there is much to do.
    Server(config, routes).run(
        sockets=[listening, *(listening.dup() for _ in range(ACCEPTED_AT_ONCE - 1))]
    )


class Server(uvicorn.Server):
    """Says when it listens, and from the first signal on that the service is not ready; finishes the requests in hand."""

    def __init__(self, config: uvicorn.Config, routes: Routes) -> None:
        super().__init__(config)
        self._routes = routes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if sockets:
            logger.info("listening on http://%s:%d", *sockets[0].getsockname()[:2])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop."""
        self._routes.predictor.stopping = True
        super().handle_exit(sig, frame)


def without_timeout(app: Starlette) -> Starlette:
    """BentoML's app from our own middleware on.

    What it has before that gives every request a task and a timer of 30 seconds: our own limits are shorter, and answer in our words.
    """
    ours = [
        isinstance(each.cls, type) and issubclass(each.cls, Guard) for each in app.user_middleware
    ].index(True)
    del app.user_middleware[:ours]
    return app


def _leave(*_: object) -> NoReturn:
    """Exit code 0 for a stop that was asked for.

    Called when a signal comes before the server has its own handlers, and again when the server has finished and hands the signal on.
    """
    raise SystemExit(0)
