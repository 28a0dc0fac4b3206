"""One connection of HTTP: uvicorn's, with a limit of time and size for the head of a request, and of the requests in hand at a time.

When more requests come than can be answered, those that are too many are refused here, before anything is made of them: that takes a
tenth of what an answer takes, so that nearly all of the time is left for answers, and nobody waits long.
"""

import asyncio
import re
import time
import weakref
from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from http import HTTPStatus
from typing import Any, NamedTuple

from httptools import HttpRequestParser
from starlette.datastructures import MutableHeaders
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from loupe.errors import LoupeError
from loupe.old_errors.service import CallerGone, HeadersTooLarge, InvalidRequest, TooManyRequests
from loupe.settings import Settings
from service import health
from service.http import replies
from service.http.guard import (
    MAX_HEADER_BYTES,
    SECURITY_HEADERS,
    cross_origin,
    log_access,
    new_request_id,
    read_request_id,
)
from service.http.logs import REQUEST_ID
from service.http.long_bodies import LongBody
from service.metrics import NO_KEY, Metrics
from service.prediction.predictor import Routes

MOST_DISCARDED_BYTES = (
    64 * 1024
)  # of a refused request's body; longer ones are refused where they are read
MOST_PLAIN_HEAD_BYTES = 1024  # of a request that is refused without the parser
HEALTH_URLS = frozenset(path.encode() for path in health.PATHS)
HEAD_SECONDS = 10  # within which the head of a request has to come, once it has begun
IDLE_SECONDS = (
    75  # without a request, after which a connection ends; proxies keep theirs for a minute
)

# A request that can be refused without the parser: none of its headers bears on where it ends, or on what the answer says.
_PARSED = rb"connection(?!: *keep-alive\r)|content-length|expect|origin|transfer-encoding|upgrade|x-request-id"
_LINES = rb"(?:(?!(?:%b):)[\w-]+:[^\r\n]*\r\n)*" % _PARSED
_PLAIN_POST = re.compile(
    rb"POST (?P<url>/[!-~]*) HTTP/1\.1\r\n%bcontent-length: *(?P<length>\d{1,5})\r\n%b\r\n"
    % (_LINES, _LINES),
    re.IGNORECASE,
)


class InHand:
    """How many requests have come whole and wait for their answers, on all connections together.

    Args:
        settings: How many there may be, and whether those that are refused stand in the log.
        routes: Where requests lead, and refusals are counted.
    """

    def __init__(self, settings: Settings, routes: Routes) -> None:
        self.requests = 0
        self._most = settings.max_requests
        self._logs_access = settings.access_log
        self._routes = routes
        self._refusal = encoded(TooManyRequests(self._most), (b"x-request-id", b"%b"))
        self._cross_origin = cross_origin(routes, settings)

    @property
    def full(self) -> bool:
        """Whether there are as many as there may be."""
        return self.requests >= self._most

    def refusal(self, method: bytes, url: bytes, request_id: str, origin: str = "") -> bytes:
        """The answer to one more request, which is counted, and logged where all are; `origin` is of the page that asks, if one does."""
        self._metrics.too_many += 1
        if self._logs_access:
            token = REQUEST_ID.set(request_id)
            path = url.partition(b"?")[0].decode()
            log_access(method.decode(), path, TooManyRequests.status, time.monotonic(), NO_KEY)
            REQUEST_ID.reset(token)
        head, end, body = (self._refusal % request_id.encode()).partition(b"\r\n\r\n")
        lines = [head, *(b"%b: %b" % header for header in self._headers_for(origin))]
        return b"\r\n".join(lines) + end + (b"" if method == b"HEAD" else body)

    def _headers_for(self, origin: str) -> list[tuple[bytes, bytes]]:
        """What lets a page of an origin read the answer, if it may."""
        if not origin or not self._cross_origin.is_allowed_origin(origin):
            return []
        headers = MutableHeaders(self._cross_origin.simple_headers)
        if not self._cross_origin.allow_all_origins:
            self._cross_origin.allow_explicit_origin(headers, origin)
        return headers.raw

    def count(self, error: LoupeError) -> None:
        """A request was refused that nobody can make out."""
        self._metrics.refused(error)

    @cached_property
    def _metrics(self) -> Metrics:
        return self._routes.predictor.metrics


class Connection(HttpToolsProtocol):
    """A connection of a service.

    Args:
        in_hand: The same for all connections.
        about: What uvicorn gives its own.
    """

    def __init__(self, *, in_hand: InHand, **about: Any) -> None:
        super().__init__(**about)
        self.ws_protocol_class = (
            None  # uvicorn would take the connection away from here for a WebSocket
        )
        self._in_hand = in_hand
        self._earlier: list[
            RequestResponseCycle
        ] = []  # requests that another one came after before they were answered
        self._is_counted = False  # among those in hand
        self._is_between_requests = True
        self._awaits_head = True
        self._stalled_bytes = 0  # that have come since a request came further
        self._came_further = False  # by the piece that was last read: it has the end of a head or request, or some of a body
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_refused = 0.0  # on the event loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for ever."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(IDLE_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_head_timer()
        self._release()
        for cycle in self._earlier:
            cycle.disconnected = (
                True  # uvicorn tells it the last one only, and fails at the answers to the others
            )
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; a head without an end is refused."""
        if self._in_hand.full and (url := self._plain_post(data)):
            self._refuse(b"POST", url, new_request_id())
            return
        self._came_further = False
        super().data_received(data)
        if self._is_between_requests or self.transport.is_closing():
            return
        if self._awaits_head and not self._stalled_bytes:  # the first piece of a head
            self._stop_head_timer()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        # Of a piece with something else before a head, nobody knows how much is the head's: the guard looks when it is whole.
        self._stalled_bytes = 1 if self._came_further else self._stalled_bytes + len(data)
        # Of a head, or of what a chunked body has beside the body; heads not as long as this are told by the guard.
        if self._stalled_bytes > 2 * MAX_HEADER_BYTES:
            self._turn_away(HeadersTooLarge(MAX_HEADER_BYTES))

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not understand; uvicorn calls this with words of its own."""
        self._turn_away(InvalidRequest("a request of HTTP/1.1", "bytes that are none"))

    def _turn_away(self, error: LoupeError) -> None:
        """Answer with an error where it is not known what is asked, nor where the next request begins."""
        self._in_hand.count(error)
        request_id = (b"x-request-id", new_request_id().encode())
        self.transport.write(encoded(error, request_id, (b"connection", b"close")))
        self.transport.close()

    def on_message_begin(self) -> None:
        """The next head begins."""
        super().on_message_begin()
        self._is_between_requests = False
        self._awaits_head = True
        self._stalled_bytes = 0

    def on_body(self, body: bytes) -> None:
        """Some of a body has come."""
        self._came_further = True
        super().on_body(body)

    def on_headers_complete(self) -> None:
        """Begin with the request, or refuse it."""
        self._awaits_head = False
        self._came_further = True
        if self._in_hand.full and self._is_refusable():
            self.cycle = _REFUSED
            origin = dict(self.headers).get(b"origin", b"").decode("latin-1")
            self._refuse(self.parser.get_method(), self.url, read_request_id(self.headers), origin)
            return
        self._stop_head_timer()
        self.scope["state"]["is_gone"] = self.transport.is_closing
        self.scope["state"]["let_go"] = self._release
        if not self._is_answered():
            self._earlier = [
                cycle for cycle in (*self._earlier, self.cycle) if not cycle.response_complete
            ]
        super().on_headers_complete()
        if self.scheme == "http":  # TLS decrypts into a buffer of its own
            # By a weak reference: the request has the scope, and the two would wait together for the garbage collector.
            self.scope["state"]["receive_rest"] = partial(
                self.receive_rest, weakref.ref(self.cycle)
            )

    async def receive_rest(
        self,
        request: weakref.ref[RequestResponseCycle],
        begun: bytes,
        length: int,
        count: Callable[[int], None],
    ) -> bytes:
        """The whole body of a request; the rest of it does not go through the parser.

        Args:
            request: That is being answered.
            begun: What its app has got of the body.
            length: Of the whole body, in bytes.
            count: Is told how many bytes come.

        Raises:
            CallerGone: If the caller goes before the end of the body.
        """
        cycle = request()
        if cycle is None:
            raise CallerGone
        count(len(cycle.body))
        begun += cycle.body  # came meanwhile
        cycle.body.clear()
        if cycle.disconnected:
            raise CallerGone
        if not cycle.more_body:
            return begun
        rest = LongBody(begun, length, count, self.flow, self)
        self._give_way_to(rest)
        try:
            await rest.ended
        except asyncio.CancelledError:
            cycle.keep_alive = False  # the rest may come still
            raise
        finally:
            self._give_way_to(self)
            body = rest.take()
        if cycle.disconnected:
            raise CallerGone
        self.parser = HttpRequestParser(self)  # the other one waits for the rest
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self.on_message_complete()
        cycle.message_event.clear()
        return body

    def _give_way_to(self, protocol: asyncio.BaseProtocol) -> None:
        """From now on, what comes on this connection goes to a protocol."""
        self.flow.pause_reading()
        self.transport.set_protocol(protocol)
        self.flow.resume_reading()

    def on_message_complete(self) -> None:
        """The request is whole."""
        super().on_message_complete()
        self._is_between_requests = self._came_further = True
        if not self.cycle.response_complete and not self._is_counted:
            self._is_counted = True
            self._in_hand.requests += 1

    def on_response_complete(self) -> None:
        """The request is answered."""
        self._release()
        super().on_response_complete()

    def _plain_post(self, data: bytes) -> bytes | None:
        """Where this leads, if it is a whole request that needs no parser to be refused, which would take three times as long."""
        if (
            not self._is_between_requests
            or not self._is_answered()
            or len(data) > MOST_DISCARDED_BYTES
        ):
            return None
        head_bytes = data.find(b"\r\n\r\n", 0, MOST_PLAIN_HEAD_BYTES) + 4
        plain = _plain_head(data[:head_bytes])
        return (
            plain.url if plain is not None and head_bytes + plain.body_bytes == len(data) else None
        )

    def timeout_keep_alive_handler(self) -> None:
        """End a connection that has been idle; one on which requests were refused since its last answer has not."""
        left = self._last_refused + IDLE_SECONDS - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(
                left, self.timeout_keep_alive_handler
            )
        else:
            super().timeout_keep_alive_handler()

    def _refuse(self, method: bytes, url: bytes, request_id: str, origin: str = "") -> None:
        self.transport.write(self._in_hand.refusal(method, url, request_id, origin))
        self._last_refused = self.loop.time()
        if (
            self.timeout_keep_alive_task is None
        ):  # the one that runs is told when it rings, which is cheaper than another one
            self._stop_head_timer()
            super().on_response_complete()

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _is_refusable(self) -> bool:
        """Whether nothing comes before the request on this connection, its body is short, and it is one that may be refused."""
        if not self._is_answered():
            return False
        headers = dict(self.headers)
        length = headers.get(b"content-length", b"0")
        is_short = length.isdigit() and int(length) <= MOST_DISCARDED_BYTES
        is_whole = not self.expect_100_continue and b"transfer-encoding" not in headers
        # Browsers ask by OPTIONS whether they may ask.
        is_always_answered = self.url in HEALTH_URLS or self.parser.get_method() == b"OPTIONS"
        return is_short and is_whole and self.parser.should_keep_alive() and not is_always_answered

    def _release(self) -> None:
        if self._is_counted:
            self._is_counted = False
            self._in_hand.requests -= 1

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Refused(RequestResponseCycle):
    """In place of a request that was answered before it began; what comes of its body is dropped."""

    def __init__(self) -> None:
        self.response_complete = True
        self.message_event = asyncio.Event()


class _PlainHead(NamedTuple):
    """Of a request that can be refused without the parser."""

    url: bytes
    body_bytes: int


@lru_cache(maxsize=1024)  # a client sends the same one again and again
def _plain_head(head: bytes) -> _PlainHead | None:
    match = _PLAIN_POST.fullmatch(head)
    if match is None or match["url"] in HEALTH_URLS:
        return None
    return _PlainHead(match["url"], int(match["length"]))


def encoded(error: LoupeError, *more_headers: tuple[bytes, bytes]) -> bytes:
    """An answer as it goes over the wire."""
    response = replies.failure(error)
    status = b"HTTP/1.1 %d %b" % (error.status, HTTPStatus(error.status).phrase.encode())
    headers = [
        b"%b: %b" % header for header in (*response.raw_headers, *SECURITY_HEADERS, *more_headers)
    ]
    return b"\r\n".join([status, *headers, b"", response.body])


_REFUSED = _Refused()
