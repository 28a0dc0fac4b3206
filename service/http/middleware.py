"""Middleware in front of all routes: request IDs, the access log, limits and API keys."""

import logging
import random
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from itertools import chain

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loupe.errors import HeadersTooLarge, InvalidRequest, LoupeError, NotFound, TooManyRequests
from loupe.settings import Settings
from service import health
from service.http import replies
from service.http.context import NO_KEY, RequestContext, caller_of, context_of
from service.http.keys import read_keys
from service.http.logs import REQUEST_ID
from service.http.origins import BrowserRules
from service.http.shares import shared
from service.key_limits import KeyLimits
from service.metrics import Metrics
from service.protocols.open_inference.requests import JSON_LENGTH
from service.web import pages

OPEN_PATHS = pages.OPEN_PATHS | health.PATHS  # need no key
MAX_HEADER_BYTES = 32 * 1024  # all headers together; browsers and proxies send far less
VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # cannot break a line of the log
NO_CLIENT = "-"  # in the access log, for connections without an address
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)

access_log = logging.getLogger("service.access")


class RequestMiddleware:
    """Gives requests an ID, refuses those that are too many or not allowed, and logs access.

    Args:
        app: The next app.
        settings: Limits, API keys, and the origins and hosts that are allowed.
        metrics: Count the refusals.
        limits: Limit the requests of each API key.
        is_local: Whether the service listens on loopback only.
        is_draining: Returns whether clients should move to another server.

    Raises:
        InvalidSetting: If the API keys cannot be read.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        metrics: Metrics,
        limits: KeyLimits,
        *,
        is_local: bool = False,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._app = app
        self._logs_access = settings.access_log
        self._keys = read_keys(settings)
        self._rules = BrowserRules(settings, is_local)
        self._metrics = metrics
        self._limits = limits
        self._is_draining = is_draining
        self.in_flight = shared(settings.max_requests)
        self._too_many = TooManyRequests(
            f"{self.in_flight.share:,} requests of yours are in flight already, or "
            f"{self.in_flight.total:,} of all callers (LOUPE_MAX_REQUESTS). Try again in a second."
        )
        self._too_many_response = replies.failure(self._too_many)
        self._answer: ASGIApp = self._admit
        if settings.origins:
            self._answer = CORSMiddleware(
                self._admit,
                allow_origins=settings.origins,
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["*"],
                expose_headers=[
                    *("X-Request-ID", "Retry-After", "Location"),
                    *("Accept-Ranges", "Content-Range", "ETag"),
                    *(replies.MODEL_HEADER, JSON_LENGTH),
                ],
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = context_of(scope)
        given = context.headers.get(b"x-request-id", b"").decode("latin-1")
        context.request_id = request_id = valid_request_id(given)
        REQUEST_ID.set(request_id)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    *SECURITY_HEADERS,
                ]
                if self._is_draining():
                    headers.append((b"connection", b"close"))
                elif context.offers_keep_alive:
                    is_delimited = any(name == b"content-length" for name, _ in headers)
                    headers.append((b"connection", b"keep-alive" if is_delimited else b"close"))
                message["headers"] = headers
            await send(message)

        await self._answer(scope, receive, send_with_headers)
        if self._logs_access:
            path, client = f"{context.prefix}{scope['path']}", scope.get("client")
            address = client[0] if client else NO_CLIENT
            log_access(scope["method"], path, status, context.started, context.key_name, address)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        context = context_of(scope)
        is_limited = scope["path"] not in health.PATHS and scope["method"] != "OPTIONS"
        refusal = self._refusal(scope, context, is_limited)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if is_limited:
            context.count_in(self.in_flight)
        try:
            await self._app(scope, receive, send)
        finally:
            context.pause()

    def _refusal(self, scope: Scope, context: RequestContext, is_limited: bool) -> ASGIApp | None:
        """Return the response to a request that is refused; count it."""
        context.caller = caller_of(scope)
        has_room = not is_limited or self.in_flight.has_room(context.caller)
        if has_room:
            try:
                self._check(scope, context)
            except LoupeError as error:
                self._metrics.refused(error, context.key_name)
                return replies.failure(error)
            if context.key_name != NO_KEY:
                context.caller = caller_of(scope)
                has_room = not is_limited or self.in_flight.has_room(context.caller)
        if has_room:
            return None
        self._metrics.refused(self._too_many, context.key_name)
        return self._too_many_response

    def _check(self, scope: Scope, context: RequestContext) -> None:
        """Check the head of a request, and note the name of its API key.

        Raises:
            Forbidden: If a foreign web page sent the request.
            HeadersTooLarge: If the headers are too long.
            InvalidRequest: If an HTTP/1.1 request does not have exactly one `Host`.
            NotFound: If no route could have the path.
            TooManyRequests: If the key has sent too many requests.
            Unauthorized: If a key is needed and missing or unknown.
        """
        if sum(map(len, chain.from_iterable(scope["headers"]))) > MAX_HEADER_BYTES:
            raise headers_too_large()
        if scope["http_version"] == "1.1":
            is_repeated = len(scope["headers"]) > len(context.headers)
            if b"host" not in context.headers or (is_repeated and _count_hosts(scope) > 1):
                raise InvalidRequest("An HTTP/1.1 request must have one Host header.")
        path = scope["path"]
        if path not in health.PATHS:
            self._rules.check(scope["method"], context.headers)
        if self._keys is not None and path not in OPEN_PATHS and scope["method"] != "OPTIONS":
            context.key_name = self._keys.name_in(Headers(scope=scope))
            context.rights = self._keys.rights[context.key_name]
        if "\n" in path or not path.startswith("/"):  # Starlette's patterns ignore a newline
            raise NotFound(f"A path is one line that starts with a slash, got {path[:80]!r}.")
        self._limits.take_request(context.key_name)


def _count_hosts(scope: Scope) -> int:
    return sum(name == b"host" for name, _ in scope["headers"])


def headers_too_large() -> HeadersTooLarge:
    """Return the error for headers above the limit."""
    return HeadersTooLarge(f"The headers exceed {MAX_HEADER_BYTES:,} bytes.")


def last_response(error: LoupeError) -> bytes:
    """Return a response, in the bytes of HTTP/1.1, after which the connection closes."""
    response = replies.failure(error)
    headers = [
        *response.raw_headers,
        *SECURITY_HEADERS,
        (b"x-request-id", new_request_id().encode()),
        (b"connection", b"close"),
    ]
    status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()
    return b"\r\n".join([status, *map(b"%b: %b".__mod__, headers), b"", response.body])


def log_access(method: str, path: str, status: int, started: float, key: str, client: str) -> None:
    """Write the access log's line for a request; `started` is on `time.monotonic`'s clock."""
    milliseconds = round((time.monotonic() - started) * 1000, 1)
    fields = {"method": method, "path": path, "status": status, "ms": milliseconds, "key": key}
    fields["client"] = client
    access_log.info(
        "%(method)s %(path)r %(status)s %(ms)s ms, key %(key)s, client %(client)s",
        fields,
        extra={"fields": fields},
    )


def valid_request_id(given: str) -> str:
    """Return the client's request ID if it is safe to log, else a new one."""
    return given if given and VALID_REQUEST_ID.fullmatch(given) else new_request_id()


def new_request_id() -> str:
    """Return 16 hexadecimal digits; they tell requests apart and are not secret."""
    return f"{random.getrandbits(64):016x}"
