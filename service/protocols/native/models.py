"""Routes of the models: what is served, all versions of a name, and which is in production."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict

from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from loupe.errors import ModelNotFound, NotFound
from loupe.models import promotion_log
from loupe.models.promotion import promote, rollback
from loupe.models.promotion_log import Promotion
from loupe.models.store import (
    PRODUCTION,
    REPORT_FILE,
    StoredModel,
    find_model,
    labels,
    list_models,
    promotions_path,
)
from service.http.replies import json
from service.http.validation import read_query
from service.prediction.predictor import Call, route
from service.prediction.served_models import ServedModel

PROTOCOL = "loupe"  # label in the metrics
# A report is foreign HTML: the browser must not run its scripts or load anything for it.
REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"
MAX_VERSIONS = 100  # that are listed, the newest
MAX_PROMOTIONS = 20  # likewise


class PromoteQuery(BaseModel):
    """The query of a promotion.

    Attributes:
        force: Accept a version that is not better, not comparable, or not measured.
    """

    model_config = ConfigDict(extra="forbid")

    force: bool = False


async def models(call: Call) -> Response:
    """List the served models, and what the caller may do."""
    with call.encoding():
        described = [
            _served(model, call.models.aliases(model), call.prefix) for model in call.models.all()
        ]
        default = call.models.find(None).stored.tag
        return json({"default": default, "models": described, "rights": sorted(call.rights)})


async def report(call: Call) -> Response:
    """Return the report of any version of a served model, an HTML page."""
    stored = await _find(call)
    path = stored.file(REPORT_FILE)
    if path is None:
        raise NotFound(
            f"Model {stored.tag} was saved without a report ({REPORT_FILE}). "
            "Train it again, or import it with --test, to get one.",
            code="report_not_found",
        )
    headers = {"Content-Security-Policy": REPORT_POLICY}
    content = await asyncio.to_thread(path.read_bytes)
    return Response(content, headers=headers, media_type="text/html")


async def versions(call: Call) -> Response:
    """List the versions of a served model in the store, and its promotions, newest first."""
    name = (await _find(call)).name
    served = set(call.models.tags())

    def read() -> dict[str, object]:
        given = labels()
        found = list_models(name)[:MAX_VERSIONS]
        history = promotion_log.read(promotions_path())
        moved = [each for each in history if (each.name, each.label) == (name, PRODUCTION)]
        return {
            "versions": [
                _described(each, call.prefix)
                | {"labels": given.get(each.tag, []), "served": each.tag in served}
                for each in found
            ],
            "promotions": [_promotion(each) for each in moved[: -MAX_PROMOTIONS - 1 : -1]],
        }

    return json(await asyncio.to_thread(read))


async def put_into_production(call: Call) -> Response:
    """Put a version into production if it is better than the one that is, and serve it."""
    force = read_query(call.request, PromoteQuery).force
    tag = (await _find(call)).tag
    return await _move(call, lambda: promote(tag, force=force))


async def roll_back(call: Call) -> Response:
    """Put the previous version into production, and serve it."""
    name = (await _find(call)).name
    return await _move(call, lambda: rollback(name)[0])


async def _move(call: Call, move: Callable[[], Promotion | None]) -> Response:
    moved = await asyncio.to_thread(move)
    await call.models.refresh()  # other processes follow the store
    return json({"promotion": moved and _promotion(moved)})


async def _find(call: Call) -> StoredModel:
    """Return the version with the tag in the path, which may not be served itself.

    Raises:
        ModelNotFound: If there is none, or no model of its name is served.
    """
    tag: str = call.request.path_params["tag"]
    served = call.models.find(tag.partition(":")[0]).stored
    call.model_name = served.name
    try:
        return await asyncio.to_thread(find_model, tag)
    except ModelNotFound:  # its message lists all models of the store
        return call.models.find(tag).stored


def _served(served: ServedModel, aliases: list[str], prefix: str) -> dict[str, object]:
    return _described(served.stored, prefix) | {
        "aliases": aliases,
        "since": served.since.isoformat(timespec="seconds"),
        "class_names": served.stored.card.class_names,
        "translations": served.stored.card.translations,
    }


def _described(stored: StoredModel, prefix: str) -> dict[str, object]:
    card = stored.card
    return {
        "model": stored.tag,
        "created": card.created.isoformat(timespec="seconds"),
        "dataset": card.dataset,
        "input": asdict(card.input),
        "figures": card.figures and card.figures.model_dump(),
        "report": f"{prefix}/models/{stored.tag}/report" if stored.file(REPORT_FILE) else None,
    }


def _promotion(moved: Promotion) -> dict[str, object]:
    """Return a line of the log, without the figures that decided it."""
    return moved.model_dump(mode="json", include={"time", "kind", "name", "forced"}) | {
        "from": moved.from_version and f"{moved.name}:{moved.from_version}",
        "to": f"{moved.name}:{moved.to_version}",
    }


ROUTES = [
    route("GET", "/models", PROTOCOL, models),
    route("GET", "/models/{tag}/report", PROTOCOL, report),
    route("GET", "/models/{tag}/versions", PROTOCOL, versions),
    route("POST", "/models/{tag}/promote", PROTOCOL, put_into_production, "promote"),
    route("POST", "/models/{tag}/rollback", PROTOCOL, roll_back, "promote"),
]
