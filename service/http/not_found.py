"""What comes after every route: an answer, as errors are answered everywhere, where none of them fits."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from loupe.old_errors.service import MethodNotAllowed, RouteNotFound
from service.metrics import NO_PROTOCOL
from service.prediction.predictor import Call, Predictor

LONGEST_COMPARED = 200  # characters of a path; the time that it takes to find the nearest one grows with their square
LIKENESS = 0.75  # 0..1, from which on one path is taken for a slip of the pen for another


class Unrouted(BaseRoute):
    """Takes whatever the routes before it have not: tells which methods the path has, or which paths there are."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Everything over HTTP."""
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and be counted."""
        predictor: Predictor = scope["state"]["predictor"]
        response = await predictor.respond(NO_PROTOCOL, Request(scope, receive, send), answer)
        await response(scope, receive, send)


async def answer(call: Call) -> Response:
    """What may be asked of a path, to those who ask just that; to others, why they get nothing.

    Raises:
        MethodNotAllowed: If the path has other methods.
        RouteNotFound: If there is no such path.
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
    raise MethodNotAllowed(scope["method"], scope["path"], allowed)


def not_found(path: str, known: Iterable[str]) -> RouteNotFound:
    """The error for a path, given all paths there are; what varies in those stands in braces."""
    begins = ", ".join(dict.fromkeys(re.sub(r"^(/[^/]+)/.*", r"\1/…", each) for each in known))
    nearest = {_like(path, each): each for each in known} if len(path) <= LONGEST_COMPARED else {}
    found = get_close_matches(path, nearest, 1, LIKENESS)
    return RouteNotFound(
        f"one of {begins}; /openapi.json describes them all", path, found[0] if found else None
    )


def _like(path: str, known: str) -> str:
    """A known path with what stands in another one where it varies."""
    given, parts = path.split("/"), known.split("/")
    return "/".join(map(_filled, given, parts)) if len(given) == len(parts) else known


def _filled(given: str, part: str) -> str:
    """A part of a known path; what follows a colon varies nowhere."""
    start, brace, rest = part.partition("{")
    return start + given.partition(":")[0] + rest.partition("}")[2] if brace else part
