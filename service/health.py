"""Health checks for load balancers and orchestrators."""

from starlette.responses import PlainTextResponse, Response

from loupe.errors import ShuttingDown
from service.prediction.predictor import Call, route

PROTOCOL = "health"  # in the metrics
# Answered without a key and at any load, together with those of the Open Inference Protocol.
PATHS = frozenset({"/livez", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})


async def live(call: Call) -> Response:
    """Return 200: the process answers."""
    return PlainTextResponse("\n")


async def ready(call: Call) -> Response:
    """Return 200 unless the service is shutting down. It listens only once models are loaded.

    Raises:
        ShuttingDown: If it is.
    """
    if call.draining:
        raise ShuttingDown()
    return PlainTextResponse("\n")


ROUTES = [
    route("GET", "/livez", PROTOCOL, live),
    route("GET", "/healthz", PROTOCOL, live),
    route("GET", "/readyz", PROTOCOL, ready),
]
