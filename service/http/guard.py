"""What comes before every route: who may call, and under which id the call stands in the log."""

import logging
import random
import re
import time
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe.errors import LoupeError
from loupe.old_errors.service import HeadersTooLarge, RouteNotFound
from loupe.settings import Settings, load_settings
from service import health
from service.http import replies
from service.http.keys import read_keys
from service.http.logs import REQUEST_ID
from service.metrics import NO_KEY
from service.prediction.predictor import Routes
from service.protocols.open_inference.requests import JSON_LENGTH
from service.web import pages

OPEN_PATHS = pages.OPEN_PATHS | health.PATHS
MAX_HEADER_BYTES = 32 * 1024  # of all headers together; browsers and proxies stay far below
CALLERS_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # nothing that could break a line of the log
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

access_log = logging.getLogger(
    "bentoml.loupe.access"
)  # below BentoML's logger, so that its handlers apply


class Guard:
    """ASGI middleware: API keys, request ids, a limit of headers, security headers, cross-origin rules and the access log.

    Args:
        app: What is begun and ended with the service.
        answers: What answers requests over HTTP, in place of `app`.

    Raises:
        InvalidSetting: If the API keys are none.
    """

    def __init__(self, app: ASGIApp, answers: Routes) -> None:
        settings = load_settings()
        self._keys = read_keys(settings)
        self._logs_access = settings.access_log
        self._app = app
        self._answers = answers
        self._guarded: ASGIApp = self._answer
        if settings.origins:
            self._guarded = cross_origin(self._answer, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        request_id = read_request_id(scope["headers"])
        REQUEST_ID.set(request_id)
        status = 0

        async def signed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *SECURITY_HEADERS,
                ]
            await send(message)

        await self._guarded(scope, receive, signed)
        if self._logs_access:
            log_access(
                scope["method"],
                scope["path"],
                status,
                started,
                scope.get("state", {}).get("key", NO_KEY),
            )

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        try:
            key = self._admitted(scope, Headers(scope=scope))
        except LoupeError as error:
            self._answers.predictor.metrics.refused(error)
            await replies.failure(error)(scope, receive, send)
        else:
            scope.setdefault("state", {})["key"] = key
            await self._answers(scope, receive, send)

    def _admitted(self, scope: Scope, headers: Headers) -> str:
        """The name of the caller's key.

        Raises:
            HeadersTooLarge: If the headers are.
            RouteNotFound: If the path is one that Starlette's routes are not made for.
            Unauthorized: If a key is needed and none of ours came.
        """
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
            raise HeadersTooLarge(MAX_HEADER_BYTES)
        name = self._caller(scope, headers)
        if "\n" in scope["path"] or not scope["path"].startswith("/"):
            raise RouteNotFound("a path on one line that begins with a slash", scope["path"])
        return name

    def _caller(self, scope: Scope, headers: Headers) -> str:
        if self._keys is None or scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            return NO_KEY
        return self._keys.name_in(headers)


def cross_origin(app: ASGIApp, settings: Settings) -> CORSMiddleware:
    """An app whose answers may be read by the pages that the settings allow to."""
    exposed = ["X-Request-ID", replies.MODEL_HEADER, JSON_LENGTH, "Retry-After", "Location"]
    methods = ["GET", "POST", "DELETE"]
    return CORSMiddleware(
        app, settings.origins, methods, allow_headers=["*"], expose_headers=exposed
    )


def log_access(method: str, path: str, status: int, started: float, key: str) -> None:
    """The line of a request, that began at `started` on the clock of `time.monotonic`."""
    milliseconds = round((time.monotonic() - started) * 1000, 1)
    about = {"method": method, "path": path, "status": status, "ms": milliseconds, "key": key}
    access_log.info(
        "%(method)s %(path)r %(status)s %(ms)s ms, key %(key)s", about, extra={"fields": about}
    )


def read_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The caller's id for the request, or a new one; of headers as ASGI has them, their names in lower case."""
    given = next((value for name, value in headers if name == b"x-request-id"), b"")
    return checked_request_id(given.decode("latin-1"))


def checked_request_id(given: str) -> str:
    """The caller's id, if it is one that may stand in the log, or a new one."""
    return given if CALLERS_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """16 hexadecimal digits. They tell requests apart, and are no secret."""
    return f"{random.getrandbits(64):016x}"
