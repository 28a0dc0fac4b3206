"""Requests to the service and their retries, written once for the blocking and the async client.

A flow is a generator. It yields a request, a download or a pause, and is sent the response or the
transport error. Each client runs flows in its own way.
"""

import random
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, TypeVar

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from loupe.errors import (
    InvalidUsage,
    LoupeError,
    RequestRefused,
    ServiceUnreachable,
    UnexpectedAnswer,
)
from loupe.settings import CREDENTIALS

T = TypeVar("T")

DEFAULT_TIMEOUT_SECONDS = 30.0  # more than any service allows, so the service's own limit applies
GRACE_SECONDS = 2.0  # so that the service's own timeout error arrives before ours
MAX_ATTEMPTS = 8  # 6 to 12 seconds of pauses in all: enough for a service to restart
FIRST_PAUSE_SECONDS = 0.1  # doubles with each attempt
MAX_PAUSE_SECONDS = 30.0  # a longer `Retry-After` ends the retries
RETRIED_STATUSES = (429, 503)
MAX_QUOTED_BYTES = 200  # of an unexpected response
MAX_MESSAGE_CHARACTERS = 10_000  # of an error; Loupe's own are shorter
MAX_ANSWER_BYTES = 256 * 2**20  # a million errors of a job; downloads have no limit
CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)


@dataclass(frozen=True)
class Pause:
    """A delay before the next attempt."""

    seconds: float


@dataclass
class Download:
    """A request whose body, if it succeeds, goes to a file; the flow gets the response's head.

    Attributes:
        path: The file. A retry asks only for what it lacks, if the service's copy is the same.
    """

    request: httpx.Request
    path: Path
    _tag: str | None = field(default=None, init=False)

    def resume(self) -> None:
        """Ask for the rest of the body, if a part of it has arrived."""
        self.request.headers.pop("Range", None)
        if self._tag is not None:
            self.request.headers["Range"] = f"bytes={self.path.stat().st_size}-"
            self.request.headers["If-Range"] = self._tag

    def open(self, response: httpx.Response) -> BinaryIO:
        """Open the file for the body of a response, or for the rest of it.

        Raises:
            UnexpectedAnswer: If it is another part of the body.
        """
        self._tag = response.headers.get("etag")
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            return self.path.open("wb")
        part = CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        first, last, size = map(int, part.groups()) if part else (0, 0, 0)
        file = self.path.open("ab")
        if first != file.tell() or last + 1 != size:
            file.close()
            raise _unexpected(response, "another part of the results")
        return file


Reply: TypeAlias = httpx.Response | httpx.RequestError | None
Flow: TypeAlias = Generator[httpx.Request | Download | Pause, Reply, T]


class Body:
    """Collects the body of a response; refuses one that is huge or compressed.

    A few compressed bytes can unpack to gigabytes, so requests ask for none.

    Raises:
        UnexpectedAnswer: If it is compressed, or longer than `MAX_ANSWER_BYTES`.
    """

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces = bytearray()
        if "content-encoding" in response.headers:
            raise _unexpected(response, "compressed data")

    def add(self, piece: bytes) -> None:
        """Add a piece in the order of arrival."""
        self._pieces += piece
        if len(self._pieces) > MAX_ANSWER_BYTES:
            raise _unexpected(self._response, f"more than {MAX_ANSWER_BYTES:,} bytes")

    def response(self) -> httpx.Response:
        """Return the response with what was added as its content."""
        head = self._response
        return httpx.Response(head.status_code, headers=head.headers, content=bytes(self._pieces))


def _unexpected(response: httpx.Response, received: str) -> UnexpectedAnswer:
    host = response.request.url.host
    return UnexpectedAnswer(f"{host} is not a Loupe service: it sent {received}.")


@dataclass
class ServiceFlows:
    """Flows for one service.

    Attributes:
        url: `http://HOST:PORT`.
        api_key: Sent as a bearer token.
        jitter: Return a random number, 0..1, that spreads the retries of many clients.

    Raises:
        InvalidUsage: If the URL is not an HTTP address, or a header cannot carry the key.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    jitter: Callable[[], float] = random.random
    _answered: bool = field(default=False, init=False)  # whether any response has arrived
    # Models and shapes of arrays that they do not take.
    _refused: set[tuple[str | None, tuple[int, ...]]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL:
            address = httpx.URL()
        if address.scheme not in ("http", "https") or not address.host:
            raise InvalidUsage(
                f"'{self._shown_url}' is not the address of a service; write http://HOST:PORT.",
                code="invalid_address",
            )
        key = self.api_key
        if key is not None and not re.fullmatch("[!-~]+", key):
            raise InvalidUsage(
                "The API key must be printable ASCII characters without spaces, and not empty.",
                code="invalid_api_key",
            )

    @property
    def _shown_url(self) -> str:
        return CREDENTIALS.sub("…", self.url)

    def _request(
        self, method: str, path: str, timeout: float = DEFAULT_TIMEOUT_SECONDS, **content: Any
    ) -> httpx.Request:
        request = httpx.Request(
            method,
            self.url + path,
            extensions={"timeout": httpx.Timeout(timeout + GRACE_SECONDS).as_dict()},
            **content,
        )
        request.headers["Accept-Encoding"] = "identity"
        if self.api_key:
            request.headers["Authorization"] = f"Bearer {self.api_key}"
        return request

    def _ask(
        self, request: httpx.Request, *, once: bool = False, path: Path | None = None
    ) -> Flow[httpx.Response]:
        """Send a request, and retry it where that may help.

        Args:
            request: What to send.
            once: Retry only if the service certainly did not process the request.
            path: File for the response body; a retry resumes an interrupted download.
        """
        step = request if path is None else Download(request, path)
        attempt = 0
        while True:
            attempt += 1
            reply = yield step
            if isinstance(reply, httpx.Response):
                self._answered = True
                if reply.is_success:
                    return reply
            refused = isinstance(reply, httpx.Response | httpx.ConnectError)
            pause = self._pause_seconds(reply, attempt) if refused or not once else None
            if pause is None or attempt == MAX_ATTEMPTS:
                raise self._error(reply)
            yield Pause(pause)
            if isinstance(step, Download):
                step.resume()

    def _pause_seconds(self, reply: Reply, attempt: int) -> float | None:
        """Return the delay before the next attempt, or `None` if a retry would not help."""
        backoff = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * (1 + self.jitter()) / 2
        if isinstance(reply, httpx.Response):
            asked = _retry_after(reply)
            retry = reply.status_code in RETRIED_STATUSES and asked <= MAX_PAUSE_SECONDS
            return asked + backoff if retry else None
        if isinstance(reply, httpx.ConnectError) and not self._answered:
            return None  # there was never a service here: report it immediately
        retry = isinstance(reply, httpx.NetworkError | httpx.RemoteProtocolError)
        return backoff if retry else None

    def _error(self, reply: Reply) -> LoupeError:
        if not isinstance(reply, httpx.Response):
            return ServiceUnreachable(
                f"No service answers at {self._shown_url}: {_problem(reply)}. "
                "Start it: loupe serve. Without a service: loupe predict --local"
            )
        status = reply.status_code
        try:
            refusal = _Refusal.model_validate_json(reply.content)
        except ValidationError:
            return RequestRefused(_quoted(reply), code=f"http_{status}", status=status)
        return RequestRefused(refusal.error, code=refusal.code, status=status)

    def _read(self, form: type[T], response: httpx.Response) -> T:
        try:
            return TypeAdapter(form).validate_json(response.content)
        except ValidationError as error:
            raise self._unexpected(_quoted(response)) from error

    def _unexpected(self, received: str) -> UnexpectedAnswer:
        return UnexpectedAnswer(f"{self._shown_url} is not a Loupe service: it sent {received}.")


class _Refusal(BaseModel):
    error: str = Field(max_length=MAX_MESSAGE_CHARACTERS)
    code: str = Field(default="request_refused", pattern="^[a-z0-9_]{1,64}$")


def _retry_after(response: httpx.Response) -> float:
    """Return the seconds of `Retry-After`; 0 if it is missing or a date."""
    given = response.headers.get("retry-after", "")
    return float(given) if given.isdecimal() else 0.0


def _problem(error: httpx.RequestError | None) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {error.request.extensions['timeout']['read']:g} s"
    return str(error).strip(".") or type(error).__name__


def _quoted(response: httpx.Response) -> str:
    # Not `response.text`, for which the server chooses the codec.
    text = response.content[:MAX_QUOTED_BYTES].decode(errors="replace")
    if len(response.content) > MAX_QUOTED_BYTES:
        text += "…"
    return f"HTTP {response.status_code} with {text!r}"
