"""The ASGI app: everything that the service serves over HTTP, and its start and stop."""

import asyncio
import gc
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from loupe.runtime.memory import return_freed_blocks
from loupe.settings import Settings, traces_wanted
from service import bento_schema, health
from service.captures import api as captures
from service.daily_images import DailyImages
from service.http.logs import set_up_log
from service.http.middleware import RequestMiddleware
from service.http.not_found import NotFoundRoute
from service.http.proxies import ProxyMiddleware
from service.jobs import api as jobs
from service.jobs.background import background_work
from service.prediction.predictor import Predictor
from service.protocols import tensorflow_serving
from service.protocols.native import api as native
from service.protocols.native import models
from service.protocols.open_inference import rest as open_inference
from service.shared_metrics import SharedMetrics
from service.web import pages

if TYPE_CHECKING:
    from service.tracing import Tracing

SWITCH_SECONDS = 0.0005  # Python's 5 ms until threads switch are longer than most answers take
# New objects until a garbage collection. Requests leave no reference cycles, and with Python's 700
# a thousand connections spend a fifth of the service's time in collections that find nothing.
GC_THRESHOLD = 50_000


class App(Starlette):
    """Starlette without its two layers for unexpected errors: `respond` answers all errors."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the router with the service's middleware around it."""
        app: ASGIApp = self.router
        for layer in reversed(self.user_middleware):
            app = layer.cls(app, *layer.args, **layer.kwargs)
        return app


def create_app(
    settings: Settings, *, is_local: bool = False, shared: SharedMetrics | None = None
) -> Starlette:
    """Return the app. It loads the models when it starts, not here.

    Args:
        settings: The settings.
        is_local: Whether the service listens on loopback only.
        shared: Metrics of all processes of the service, if there are several.

    Raises:
        InvalidSetting: If the API keys, their limits or the webhooks' secret cannot be read.
        LoupeError: If traces are configured, and their exporter is not installed.
    """
    tracing = _tracing()
    predictor = Predictor(settings, tracing, shared)
    stack = [
        Middleware(
            RequestMiddleware,
            settings=settings,
            metrics=predictor.metrics,
            limits=predictor.key_limits,
            is_local=is_local,
            is_draining=lambda: predictor.draining,
        )
    ]
    if tracing is not None:
        from service.tracing import TracingMiddleware

        stack.insert(0, Middleware(TracingMiddleware, tracing=tracing))
    if settings.proxies or settings.root_path:
        stack.insert(0, Middleware(ProxyMiddleware, settings=settings))
    app = App(
        routes=[
            *native.ROUTES,
            *models.ROUTES,
            *jobs.ROUTES,
            *captures.ROUTES,
            *open_inference.ROUTES,
            *tensorflow_serving.ROUTES,
            *health.ROUTES,
            *pages.ROUTES,
            *bento_schema.ROUTES,
            NotFoundRoute(),
        ],
        middleware=stack,
        lifespan=_lifespan,
    )
    app.state.predictor = predictor
    app.state.daily_images = DailyImages(predictor.key_limits, predictor.jobs, settings)
    app.state.job_work = background_work(settings, predictor.jobs, predictor.metrics)
    app.middleware_stack = app.build_middleware_stack()  # reads the API keys now, not later
    return app


def _tracing() -> "Tracing | None":
    if not traces_wanted(os.environ):
        return None
    from service.tracing import Tracing  # imports OpenTelemetry's SDK, an optional dependency

    return Tracing()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    """Load the models and start what runs in the background; at the end, answer what is queued.

    Raises:
        ModelNotFound: If the store has no model to serve by default.
        LoupeError: If a gRPC port is set, and gRPC is not installed.
        ProgramFailed: If the gRPC port is in use.
    """
    predictor: Predictor = app.state.predictor
    settings = predictor.settings
    set_up_log(settings.log_format)
    predictor.models.load()
    grpc = None
    if settings.grpc_port is not None:
        from service.protocols.open_inference.grpc_server import GrpcServer

        grpc = GrpcServer(predictor, settings.grpc_port)
        await grpc.start()
    return_freed_blocks()
    gc.collect()
    gc.freeze()  # a full collection would stall requests to scan all imported modules
    gc.set_threshold(GC_THRESHOLD)
    sys.setswitchinterval(SWITCH_SECONDS)
    daily_images: DailyImages = app.state.daily_images
    work = {
        "follow the store": predictor.models.follow,
        "publish metrics": predictor.publish_metrics,
    }
    if predictor.is_first:
        work |= {"save images of keys": daily_images.run, **app.state.job_work}
    background = [asyncio.create_task(begin(), name=name) for name, begin in work.items()]
    yield
    predictor.draining = predictor.stopping = True
    for task in background:
        task.cancel()
    if grpc is not None:
        await grpc.stop()  # before the models that its calls wait for
    await daily_images.close()  # of this process and, if it is the last one, of all others
    await predictor.close()
    if predictor.tracing is not None:
        predictor.tracing.close()
