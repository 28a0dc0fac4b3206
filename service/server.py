"""`loupe serve`: the app on uvicorn, in one process or several."""

import asyncio
import logging
import select
import signal
import socket
import time
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import NoReturn

import uvicorn
from starlette.applications import Starlette

from loupe.models.store import find_model, verify
from loupe.runtime.ports import BACKLOG, listen, url_of
from loupe.settings import Settings
from service.app import create_app
from service.connections.connection import IDLE_SECONDS, Connection
from service.http.logs import set_up_log
from service.prediction.predictor import Predictor
from service.shared_metrics import SharedMetrics

LOOPBACK = ("127.0.0.1", "::1", "localhost")
MAX_ACCEPT_TURNS = 1000  # of the event loop, before it stops to listen
ACCEPTED_AT_ONCE = 16  # new connections per turn of the event loop: it accepts one per socket

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until a signal arrives, then finish the requests in flight.

    Raises:
        InvalidSetting: If the API keys, their limits or the webhooks' secret cannot be read.
        ModelCorrupted: If the default model's files have changed.
        ModelNotFound: If there is no model to serve.
        LoupeError: If gRPC or traces are configured, and their packages are missing.
        ProgramFailed: If the port is in use, or the processes die whenever they start.
    """
    set_up(settings)
    if not settings.needs_keys and settings.host not in LOOPBACK:
        logger.warning(
            "listening on %s without API keys: every client may call (LOUPE_API_KEYS)",
            settings.host,
        )
    app = new_app(settings)
    # Fail with one line here; errors while the app starts come with a traceback.
    verify(find_model(settings.default_tag))
    listening = _listen(settings)
    if settings.processes == 1:
        Server(app).run_on(listening)
        return
    from service.processes import supervise

    supervise(settings, listening)


def set_up(settings: Settings) -> None:
    """Set up the log, and exit with code 0 on signals before the server starts."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _exit)
    set_up_log(settings.log_format)


def new_app(settings: Settings, shared: SharedMetrics | None = None) -> Starlette:
    """Return the app of this process; see `create_app`."""
    return create_app(settings, is_local=settings.host in LOOPBACK, shared=shared)


def _listen(settings: Settings) -> list[socket.socket]:
    """Return the sockets for HTTP; check that the port for gRPC is free and its packages exist."""
    listening = listen(settings.host, settings.port)
    if settings.grpc_port is not None:
        import service.protocols.open_inference.grpc_server  # noqa: F401

        for each in listen(settings.host, settings.grpc_port, "LOUPE_GRPC_PORT"):
            each.close()
    return listening


class Server(uvicorn.Server):
    """A server that is not ready from the first signal on, and answers until it has drained."""

    def __init__(self, app: Starlette) -> None:
        predictor: Predictor = app.state.predictor
        config = uvicorn.Config(
            app,
            http=partial(Connection, metrics=predictor.metrics),  # type: ignore[arg-type]
            ws="none",
            lifespan="on",
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=predictor.settings.shutdown_timeout_seconds,
        )
        super().__init__(config)
        self._predictor = predictor
        self._stops_at: float | None = None  # on the clock of `time.monotonic`

    def run_on(self, listening: Sequence[socket.socket]) -> None:
        """Serve on sockets that listen, until a signal arrives."""
        more = [each.dup() for each in listening for _ in range(ACCEPTED_AT_ONCE - 1)]
        self.run(sockets=[*listening, *more])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and log the address."""
        await super().startup(sockets)
        if sockets and not self.should_exit:
            settings = self._predictor.settings
            logger.info("listening on %s", url_of(settings.host, settings.port))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept the connections that wait, then stop to listen, and finish the requests.

        Closing a listening socket resets connections that it has not accepted.
        """
        listening = sockets or []
        for _ in range(MAX_ACCEPT_TURNS):
            if not select.select(listening, [], [], 0)[0]:
                break
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for each in listening:
            each.close()
        await asyncio.sleep(0)  # what was just accepted becomes a connection
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain after the first SIGTERM; shut down after others."""
        drain_seconds = self._predictor.settings.drain_seconds
        self._predictor.draining = True
        if sig == signal.SIGTERM and drain_seconds and self._stops_at is None:
            self._stops_at = time.monotonic() + drain_seconds
            logger.info("draining for %g s", drain_seconds)
            return
        self._predictor.stopping = True
        super().handle_exit(sig, frame)

    async def on_tick(self, counter: int) -> bool:
        """Shut down when the service has drained."""
        if self._stops_at is not None and time.monotonic() >= self._stops_at:
            self._predictor.stopping = True
            self.should_exit = True
        return await super().on_tick(counter)


def _exit(*_: object) -> NoReturn:
    """Exit with code 0 on a signal before the server starts, and again when it re-raises one."""
    raise SystemExit(0)
