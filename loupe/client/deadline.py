"""A timeout for whole answers; httpx limits only the wait for each of their pieces."""

import math
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any

import httpx

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)  # of `time.monotonic`


def trace(event: str, about: Mapping[str, Any]) -> None:
    """Start the timeout when a request has been sent; pass this as the extension `trace`.

    Source: https://www.encode.io/httpcore/extensions/#trace
    """
    if event.endswith(("connect_tcp.complete", "start_tls.complete")):
        stream = about["return_value"]
        stream.read = partial(_read, stream.read)
    elif event.endswith("receive_response_headers.started"):
        seconds = about["request"].extensions["timeout"]["read"]
        _deadline.set(time.monotonic() + seconds)


async def async_trace(event: str, about: Mapping[str, Any]) -> None:
    """Do the same for an asynchronous client."""
    trace(event, about)


def stop() -> None:
    """Stop the timeout: the rest of the answer may take any time."""
    _deadline.set(math.inf)


def _read(read: Callable[..., Any], max_bytes: int, timeout: float) -> Any:
    """Read from a connection; return bytes, or an awaitable of them."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise httpx.ReadTimeout("the answer is too slow")
    return read(max_bytes, min(timeout, left))
