"""Loupe's own protocol: pictures of any kind in, labels and probabilities by name out."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from loupe.models.store import REPORT_FILE
from loupe.old_errors.core import ReportNotFound
from loupe.old_errors.service import NotAcceptable
from service.http import replies
from service.http.options import Options, read_options
from service.prediction import inputs
from service.prediction.caller import Caller
from service.prediction.predictor import Call, route
from service.prediction.served_models import ServedModel

PROTOCOL = "loupe"  # in the metrics


@dataclass(frozen=True)
class Question:
    """What a request asks beside its images.

    Attributes:
        served: The model that answers.
        names: Of its classes, in the language asked for.
        caller: Who asks.
        preparation: What is done to a picture before the model sees it.
        options: How to answer.
    """

    served: ServedModel
    names: Sequence[str]
    caller: Caller
    preparation: inputs.Preparation
    options: Options


@contextmanager
def asked(call: Call) -> Iterator[Question]:
    """A request's question, whose model stays until the block ends."""
    options, caller = read_options(call.request), call.caller()
    with call.model(options.model) as served:
        preparation = call.preparation(served, caller, options.normalize)
        yield Question(
            served, served.stored.card.names(options.language), caller, preparation, options
        )


async def predict(call: Call) -> Response:
    """Answer for one image."""
    with asked(call) as question:
        with call.decoding():
            body = await call.bodies.read(call.request)
            image = await inputs.read_image(
                body, call.request.headers, call.settings, question.preparation
            )
        served, options = question.served, question.options
        probabilities = await call.predict(
            image[None], served, question.caller, options.threshold
        )  # (1, classes)
        with call.encoding():
            return replies.prediction(served.stored.tag, question.names, probabilities[0], options)


async def predict_batch(call: Call) -> Response:
    """Answer for many images, each by itself."""
    with asked(call) as question:
        with call.decoding():
            body = await call.bodies.read(call.request)
            batch = await inputs.read_batch(
                body, call.request.headers, call.settings, question.preparation
            )
        as_npy = replies.NPY in call.request.headers.get("accept", "")
        if as_npy and batch.errors:
            wanted = "images that can all be read, for an answer as .npy"
            raise NotAcceptable(wanted, f"{len(batch.errors)} that cannot")
        served, options = question.served, question.options
        probabilities = await call.predict(batch.images, served, question.caller, options.threshold)
        with call.encoding():
            if as_npy:
                return replies.npy(served.stored.tag, probabilities)
            return replies.predictions(
                served.stored.tag, question.names, batch, probabilities, options
            )


async def models(call: Call) -> Response:
    """What is served, and since when."""
    with call.encoding():
        served = [_described(model, call.models.aliases(model)) for model in call.models.all()]
        return replies.json({"default": call.models.find(None).stored.tag, "models": served})


async def metrics(call: Call) -> Response:
    """What Prometheus asks for."""
    return Response(call.exposed_metrics(), media_type=CONTENT_TYPE_LATEST)


async def report(call: Call) -> Response:
    """The report of a model: a page of its own."""
    with call.model(call.request.path_params["tag"]) as served:
        path = served.stored.folder / REPORT_FILE
        if not path.is_file():
            raise ReportNotFound(served.stored.tag, REPORT_FILE)
        # The page is a file somebody else may have made: it may show itself, and nothing more.
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return Response(
            await asyncio.to_thread(path.read_bytes), headers=headers, media_type="text/html"
        )


REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"

ROUTES = [
    route("POST", "/predict", PROTOCOL, predict),
    route("POST", "/predict_batch", PROTOCOL, predict_batch),
    route("GET", "/metrics", PROTOCOL, metrics),
    route("GET", "/models", PROTOCOL, models),
    route("GET", "/models/{tag}/report", PROTOCOL, report),
]


def _described(served: ServedModel, aliases: list[str]) -> dict[str, object]:
    stored, card = served.stored, served.stored.card
    return {
        "model": stored.tag,
        "aliases": aliases,
        "since": served.since.isoformat(timespec="seconds"),
        "created": card.created.isoformat(timespec="seconds"),
        "dataset": card.dataset,
        "class_names": card.class_names,
        "translations": card.translations,
        "look": card.look,
        "figures": card.figures.model_dump(),
        "report": f"/models/{stored.tag}/report"
        if (stored.folder / REPORT_FILE).is_file()
        else None,
    }
