"""The Open Inference Protocol, version 2, over REST, as Triton, KServe and MLServer speak it.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md;
raw tensors, classification, and descriptions of models as in the extensions of Triton's
docs/protocol.
"""

from starlette.responses import Response

from loupe.errors import ShuttingDown
from service.http import replies
from service.prediction.predictor import Call, route
from service.protocols.open_inference import descriptions
from service.protocols.open_inference.replies import answer
from service.protocols.open_inference.requests import JSON_LENGTH, parse_inference
from service.protocols.open_inference.tensors import read_images

PROTOCOL = "v2"  # label in the metrics


async def server(call: Call) -> Response:
    """Return name, version and extensions of the server."""
    return replies.json(descriptions.SERVER)


async def live(call: Call) -> Response:
    """Answer that the service is alive."""
    return replies.json({"live": True})


async def ready(call: Call) -> Response:
    """Answer that models are served; the service accepts no request before that."""
    if call.draining:
        raise ShuttingDown()
    # The specification says `live`, the servers say `ready`.
    return replies.json({"live": True, "ready": True})


async def model_ready(call: Call) -> Response:
    """Answer that a model is served."""
    with call.model(_tag(call)) as served:
        return replies.json({"name": served.stored.name, "ready": True})


async def metadata(call: Call) -> Response:
    """Describe inputs and outputs of a model."""
    with call.model(_tag(call)) as served:
        versions = call.models.versions(served.stored.name)
        return replies.json(descriptions.metadata(served, versions, call.settings))


async def configuration(call: Call) -> Response:
    """Return the configuration of a model, as Triton writes it."""
    with call.model(_tag(call)) as served:
        return replies.json(descriptions.configuration(served, call.settings))


async def statistics(call: Call) -> Response:
    """Return the statistics of a version, of all versions of a name, or of all names."""
    path = call.request.path_params
    models = call.models.versions(_tag(call)) if path else call.models.all()
    return replies.json(descriptions.statistics(models))


async def index(call: Call) -> Response:
    """List the served versions; all of them are ready, so the body is ignored."""
    return replies.json(descriptions.index(call.models.all()))


async def control(call: Call) -> Response:
    """Refuse to load or unload a model."""
    raise descriptions.control_refused(call.request.path_params["model"])


async def infer(call: Call) -> Response:
    """Classify images; one that cannot be read fails the request: tensors cannot hold errors."""
    with call.model(_tag(call)) as served:
        with call.decoding():
            request, values = await parse_inference(
                await call.bodies.read(call.request, "an inference request"),
                call.request.headers.get(JSON_LENGTH),
                call.settings,
            )
            caller = call.caller(request.timeout_seconds)
            preparation = call.preparation(served, caller)
            reading = read_images(request.inputs[0], values, call.settings, preparation)
            del values  # only the images are needed until a decoder and the engine are free
            images = await reading
        outputs = await call.predict(images, served, caller)
        with call.encoding():
            blank = served.stored.card.input.blank(images)
            return answer(served.stored, request, outputs, blank)


def _tag(call: Call) -> str:
    """Return the tag in the path; labels such as `production` count as versions."""
    return ":".join(call.request.path_params.values())


MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"

ROUTES = [
    route("GET", "/v2", PROTOCOL, server),
    route("GET", "/v2/health/live", PROTOCOL, live),
    route("GET", "/v2/health/ready", PROTOCOL, ready),
    route("GET", "/v2/models/stats", PROTOCOL, statistics),
    route("POST", "/v2/repository/index", PROTOCOL, index),
    route("POST", "/v2/repository/models/{model}/load", PROTOCOL, control),
    route("POST", "/v2/repository/models/{model}/unload", PROTOCOL, control),
    *(
        route(method, path + end, PROTOCOL, handler, "predict" if handler is infer else None)
        for path in (MODEL, VERSION)
        for method, end, handler in (
            ("GET", "", metadata),
            ("GET", "/ready", model_ready),
            ("GET", "/config", configuration),
            ("GET", "/stats", statistics),
            ("POST", "/infer", infer),
        )
    ),
]
