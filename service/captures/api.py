"""Captured pictures over HTTP: look through them, and delete them."""

import asyncio
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.captures.captures import Capture, Captures
from service.http import replies
from service.http.validation import read_query
from service.jobs.rows import MAX_PAGE
from service.prediction.predictor import Call, route

PROTOCOL = "loupe"  # label in the metrics
MAX_TAG = 256  # characters


class CapturesRequest(BaseModel):
    """A page of captured pictures.

    Attributes:
        model: Only pictures that a model with this tag or name answered.
        sort: Column by which the lowest values come first; the newest first by default.
        offset: Number of pictures before the page.
        limit: Maximum number of pictures.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, max_length=MAX_TAG)
    sort: Literal["confidence", "familiarity"] | None = None
    offset: int = Field(default=0, ge=0, le=100_000)
    limit: int = Field(default=50, ge=1, le=MAX_PAGE)


async def captures(call: Call) -> Response:
    """Return a page of the captured pictures."""
    asked = read_query(call.request, CapturesRequest)
    return replies.json(await asyncio.to_thread(_page, call.captures, asked))


def _page(kept: Captures, asked: CapturesRequest) -> dict[str, object]:
    every = kept.read()
    found = [each for each in every if asked.model in (None, *_names(each))]
    if asked.sort is not None:
        name = asked.sort
        found.sort(key=lambda each: (each[name] is None, each[name] or 0))
    return {
        "share": kept.share,
        "rows": found[asked.offset :][: asked.limit],
        "offset": asked.offset,
        "matched": len(found),
        "total": len(every),
    }


def _names(capture: Capture) -> tuple[str, str]:
    return capture["model"], capture["model"].partition(":")[0]


async def delete(call: Call) -> Response:
    """Delete all captured pictures."""
    return replies.json({"deleted": await asyncio.to_thread(call.captures.delete)})


ROUTES = [
    route("GET", "/captures", PROTOCOL, captures, "review"),
    route("DELETE", "/captures", PROTOCOL, delete, "review"),
]
