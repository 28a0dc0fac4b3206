"""`GET /schema.json`: the description from which BentoML's clients build their methods."""

from starlette.responses import Response

from service.http import replies
from service.prediction.predictor import Call, route

PROTOCOL = "bentoml"  # in the metrics
FILE = {"type": "file", "format": "binary"}


def _method(name: str, doc: str, field: str, kind: dict[str, object]) -> dict[str, object]:
    """Describe one route that takes a multipart form with one field."""
    return {
        "name": name,
        "route": f"/{name}",
        "doc": doc,
        "input": {"type": "object", "properties": {field: kind}, "required": [field]},
        "output": {"type": "object"},
    }


SCHEMA = {
    "name": "loupe",
    "type": "service",
    "routes": [
        _method("predict", "Classify one image.", "image", {**FILE, "title": "Image"}),
        _method(
            "predict_batch",
            "Classify many images.",
            "images",
            {"type": "array", "items": FILE, "title": "Images"},
        ),
    ],
}


async def schema(call: Call) -> Response:
    """Return the description."""
    return replies.json(SCHEMA)


ROUTES = [route("GET", "/schema.json", PROTOCOL, schema)]
