"""The Open Inference Protocol, version 2, over REST, as Triton, KServe and MLServer speak it.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md;
raw tensors and classification as in Triton's docs/protocol, extension_binary_data.md and
extension_classification.md.
"""

from starlette.responses import Response

from loupe import __version__
from loupe.errors import ShuttingDown
from loupe.images.spec import SIDE
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
)
from service.protocols.open_inference.tensors import read_images

PROTOCOL = "v2"  # label in the metrics
SERVER = {
    "name": "loupe",
    "version": __version__,
    "extensions": ["binary_tensor_data", "classification"],
}
PLATFORMS = {"onnx": "onnxruntime_onnx", "tensorflow": "tensorflow_keras"}  # by engine


async def server(call: Call) -> Response:
    """Return name, version and extensions of the server."""
    return replies.json(SERVER)


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
        return replies.json(describe(call, served))


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
        probabilities = await call.predict(images, served, caller)
        with call.encoding():
            return answer(served.stored, request, probabilities)


def describe(call: AnyCall, served: ServedModel) -> dict[str, object]:
    """Return the metadata of a model, for REST and gRPC."""
    name, classes = served.stored.name, len(served.stored.card.class_names)
    versions = [model.stored.version for model in call.models.all() if model.stored.name == name]
    return {
        "name": name,
        "versions": versions,
        "platform": PLATFORMS[call.settings.engine],
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, SIDE, SIDE]}],
        "outputs": [
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": INDEX, "datatype": "INT64", "shape": [-1]},
        ],
    }


def _tag(call: Call) -> str:
    """Return the tag in the path; labels such as `production` count as versions."""
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
