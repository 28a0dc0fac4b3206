"""Whether the service lives and takes requests, for those who watch it."""

from starlette.responses import PlainTextResponse, Response

from loupe.old_errors.service import ShuttingDown
from service.prediction.predictor import Call, route

PROTOCOL = "health"  # in the metrics
# What is answered to everybody, however much there is to do; the Open Inference Protocol's own questions among it.
PATHS = frozenset({"/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})


async def live(call: Call) -> Response:
    """That the service answers."""
    return PlainTextResponse("\n")


async def ready(call: Call) -> Response:
    """That the service takes requests: it listens only after it has loaded its models.

    Raises:
        ShuttingDown: If it has been told to stop.
    """
    if call.stopping:
        raise ShuttingDown
    return PlainTextResponse("\n")


ROUTES = [
    route("GET", "/livez", PROTOCOL, live),
    route("GET", "/healthz", PROTOCOL, live),
    route("GET", "/readyz", PROTOCOL, ready),
]
