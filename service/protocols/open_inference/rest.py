"""The Open Inference Protocol, version 2, over REST: what Triton, KServe, MLServer and their clients speak.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md; raw tensors and classification as
in Triton's extensions, docs/protocol/extension_binary_data.md and extension_classification.md.
"""

from starlette.responses import Response

from loupe import __version__
from loupe.images.spec import SIDE
from loupe.old_errors.service import ShuttingDown
from service.http import replies
from service.prediction.predictor import AnyCall, Call, route
from service.prediction.served_models import ServedModel
from service.protocols.open_inference.replies import answer
from service.protocols.open_inference.requests import (
    INDEX,
    INPUT,
    JSON_LENGTH,
    LABEL,
    PROBABILITIES,
    parse_inference,
    read_images,
)

PROTOCOL = "v2"  # in the metrics
SERVER = {
    "name": "loupe",
    "version": __version__,
    "extensions": ["binary_tensor_data", "classification"],
}
PLATFORMS = {
    "onnx": "onnxruntime_onnx",
    "tensorflow": "tensorflow_keras",
}  # what runs the models, by engine


async def server(call: Call) -> Response:
    """What answers here."""
    return replies.json(SERVER)


async def live(call: Call) -> Response:
    """That the service answers."""
    return replies.json({"live": True})


async def ready(call: Call) -> Response:
    """That models are served: the service takes no request before.

    Raises:
        ShuttingDown: If it has been told to stop.
    """
    if call.stopping:
        raise ShuttingDown
    return replies.json(
        {"live": True, "ready": True}
    )  # the word of the specification, and the one of its servers


async def model_ready(call: Call) -> Response:
    """That a model is served."""
    with call.model(_tag(call)) as served:
        return replies.json({"name": served.stored.name, "ready": True})


async def metadata(call: Call) -> Response:
    """What a model takes and what it answers with."""
    with call.model(_tag(call)) as served:
        return replies.json(description(call, served))


async def infer(call: Call) -> Response:
    """Classes of the images in a request; one that cannot be used refuses it, since a tensor has no place for errors."""
    with call.model(_tag(call)) as served:
        with call.decoding():
            body = await call.bodies.read(call.request, "an inference request")
            inference = parse_inference(body, call.request.headers.get(JSON_LENGTH))
            caller = call.caller(inference.timeout_seconds)
            images = await read_images(
                inference.images, call.settings, call.preparation(served, caller)
            )
        probabilities = await call.predict(images, served, caller)
        with call.encoding():
            return answer(served.stored, inference, probabilities)


def description(call: AnyCall, served: ServedModel) -> dict[str, object]:
    """What a model takes and what it answers with, as the protocol says it."""
    name, classes = served.stored.name, len(served.stored.card.class_names)
    return {
        "name": name,
        "versions": [
            model.stored.version for model in call.models.all() if model.stored.name == name
        ],
        "platform": PLATFORMS[call.settings.engine],
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, SIDE, SIDE]}],
        "outputs": [
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": INDEX, "datatype": "INT64", "shape": [-1]},
        ],
    }


def _tag(call: Call) -> str:
    """The model that a path names; labels, as `production`, are versions too."""
    return ":".join(call.request.path_params.values())


MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"

ROUTES = [
    route("GET", "/v2", PROTOCOL, server),
    route("GET", "/v2/health/live", PROTOCOL, live),
    route("GET", "/v2/health/ready", PROTOCOL, ready),
    *(
        route(method, path + end, PROTOCOL, handler)
        for path in (MODEL, VERSION)
        for method, end, handler in (
            ("GET", "", metadata),
            ("GET", "/ready", model_ready),
            ("POST", "/infer", infer),
        )
    ),
]
