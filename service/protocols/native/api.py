"""Predictions and metrics of Loupe's own protocol."""

import asyncio

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from loupe.drawing import png_in_base64
from loupe.errors import InvalidRequest, NotAcceptable
from loupe.images.spec import UInt8Array
from loupe.images.steps import Step
from loupe.models.answers import answers
from loupe.models.engines.engine import Outputs
from loupe.models.explaining import saliency
from service.http.options import PredictQuery, read_options
from service.prediction.caller import Caller
from service.prediction.predictor import Call, route
from service.prediction.served_models import ServedModel
from service.protocols.native import replies
from service.protocols.native.requests import read_batch, read_image, read_symbols

PROTOCOL = "loupe"  # label in the metrics


async def predict(call: Call) -> Response:
    """Classify one image, or each of several symbols in it."""
    options, caller = read_options(call.request), call.caller()
    if options.split:
        return await _predict_symbols(call, options, caller)
    with call.model(options.model) as served:
        served.check(options)
        steps: list[Step] | None = None if options.explain is None else []
        preparation = call.preparation(served, caller, options.normalize, steps)
        with call.decoding():
            image = await read_image(
                await call.bodies.read(call.request),
                call.content_type,
                call.settings,
                preparation,
            )
        outputs = await call.predict(image[None], served, caller, options)
        explanation = None
        if steps is not None:
            more = await _explain(image, outputs, served, caller, options, call.settings.max_images)
            explanation = replies.Explanation(image, steps, more)
        with call.encoding():
            answer = next(answers(served.stored.card, image[None], outputs, options))
            return replies.prediction(served.stored.tag, answer, explanation)


async def _explain(
    image: UInt8Array,
    outputs: Outputs,
    served: ServedModel,
    caller: Caller,
    options: PredictQuery,
    max_images: int,
) -> dict[str, object]:
    """Return what an answer says besides the image that the model saw, and its steps."""
    if options.explain == "saliency":
        return {
            "saliency": png_in_base64(await _saliency(image, outputs, served, caller, max_images))
        }
    if options.explain == "nearest":
        found = await asyncio.to_thread(served.neighbours.of, image, options.lang)
        return {"nearest": replies.neighbours(found)}
    return {}


async def _saliency(
    image: UInt8Array,
    outputs: Outputs,
    served: ServedModel,
    caller: Caller,
    max_images: int,
) -> UInt8Array:
    """Return a drawn map of an image; at most `max_images` of its copies are queued at a time."""
    occlusion = saliency.occlude(image, served.stored.card.input)
    parts = [
        await served.batcher.predict(occlusion.images[start : start + max_images], caller)
        for start in range(0, max(1, len(occlusion.images)), max_images)
    ]
    occluded = Outputs.joined(parts).probabilities
    return saliency.draw(image, occlusion.saliency(outputs.probabilities[0], occluded))


async def _predict_symbols(call: Call, options: PredictQuery, caller: Caller) -> Response:
    """Classify each of several symbols in a picture."""
    if options.explain is not None:
        raise InvalidRequest("explain and split=true exclude each other: send a digit alone.")
    with call.model(options.model) as served:
        served.check(options)
        preparation = call.preparation(served, caller, options.normalize, split=True)
        with call.decoding():
            symbols = await read_symbols(
                await call.bodies.read(call.request),
                call.content_type,
                call.settings,
                preparation,
            )
        images = preparation.spec.stack([image for image, _ in symbols])
        outputs = await call.predict(images, served, caller, options)
        stored = served.stored
        with call.encoding():
            found = answers(stored.card, images, outputs, options)
            return replies.symbols(stored.tag, [box for _, box in symbols], found)


async def predict_batch(call: Call) -> Response:
    """Classify many images; an image that fails gets an error in its place."""
    options, caller = read_options(call.request), call.caller()
    if options.explain is not None:
        raise InvalidRequest("Only the answer to one image explains itself: POST /predict.")
    with call.model(options.model) as served:
        served.check(options)
        preparation = call.preparation(served, caller, options.normalize, split=options.split)
        with call.decoding():
            decoded = await read_batch(
                await call.bodies.read(call.request),
                call.content_type,
                call.settings,
                preparation,
            )
        is_npy = replies.NPY in call.request.headers.get("accept", "")
        if is_npy and options.split:
            raise NotAcceptable("An .npy file has no place for the boxes of split=true.")
        if is_npy and decoded.errors:
            raise NotAcceptable(
                f"{len(decoded.errors)} images cannot be read, and .npy has no place for errors. "
                "Ask for JSON."
            )
        outputs = await call.predict(decoded.images, served, caller, options)
        stored = served.stored
        with call.encoding():
            if is_npy:
                return replies.npy(stored.tag, outputs.probabilities)
            found = answers(stored.card, decoded.images, outputs, options)
            return replies.predictions(stored.tag, decoded, found)


async def metrics(call: Call) -> Response:
    """Return the metrics for Prometheus."""
    return Response(await call.exposed_metrics(), media_type=CONTENT_TYPE_LATEST)


ROUTES = [
    route("POST", "/predict", PROTOCOL, predict, "predict"),
    route("POST", "/predict_batch", PROTOCOL, predict_batch, "predict"),
    route("GET", "/metrics", PROTOCOL, metrics),
]
