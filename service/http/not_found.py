"""The last route: answers requests that no other route takes."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from loupe.errors import MethodNotAllowed, NotFound
from service.metrics import NO_PROTOCOL
from service.prediction.predictor import Call, respond

MAX_COMPARED = 200  # characters of a path; comparing takes time quadratic in the length
MAX_SHOWN = 80  # characters of a path in an error message
MIN_SIMILARITY = 0.75  # 0..1, for a "did you mean" hint


class NotFoundRoute(BaseRoute):
    """Matches every HTTP request."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match every HTTP request."""
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and count the request."""
        response = await respond(NO_PROTOCOL, Request(scope, receive, send), answer)
        await response(scope, receive, send)


async def answer(call: Call) -> Response:
    """Answer an `OPTIONS` request with the path's methods, and refuse all others.

    Raises:
        MethodNotAllowed: If the path has other methods.
        NotFound: If the path does not exist.
    """
    scope = call.request.scope
    routes = [route for route in scope["router"].routes if isinstance(route, Route)]
    methods = {
        method
        for route in routes
        if route.matches(scope)[0] != Match.NONE
        for method in route.methods or ()
    }
    if not methods:
        raise not_found(scope["path"], [route.path_format for route in routes])
    allowed = sorted({*methods, "OPTIONS"})
    if scope["method"] == "OPTIONS":
        return Response(status_code=204, headers={"Allow": ", ".join(allowed)})
    supported = " or ".join(each for each in allowed if each not in ("HEAD", "OPTIONS"))
    message = f"{_shortened(scope['path'])} supports {supported}, not {scope['method']}."
    raise MethodNotAllowed(message, allowed)


def not_found(path: str, known: Iterable[str]) -> NotFound:
    """Return the error for an unknown path, with the most similar known one.

    Args:
        path: The path.
        known: All paths, with parameters in braces.
    """
    prefixes = ", ".join(dict.fromkeys(re.sub(r"^(/[^/]+)/.*", r"\1/…", each) for each in known))
    candidates = [_filled(path, each) for each in known] if len(path) <= MAX_COMPARED else []
    similar = get_close_matches(path, candidates, 1, MIN_SIMILARITY)
    hint = f" Did you mean {similar[0]}?" if similar else ""
    return NotFound(
        f"There is no path {_shortened(path)}.{hint} The paths are {prefixes}; "
        "/openapi.json describes them all."
    )


def _filled(path: str, known: str) -> str:
    """Replace the parameters of a known path by the parts of `path` in the same positions."""
    given, parts = path.split("/"), known.split("/")
    if len(given) != len(parts):
        return known
    return "/".join(
        start + part.partition(":")[0] + rest.partition("}")[2] if brace else start
        for part, (start, brace, rest) in zip(
            given, (each.partition("{") for each in parts), strict=True
        )
    )


def _shortened(path: str) -> str:
    """Quote a path, without control characters and not too long."""
    return repr(path if len(path) <= MAX_SHOWN else path[:MAX_SHOWN] + "…")
