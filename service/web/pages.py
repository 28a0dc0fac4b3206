"""The description of the API, and a page to read it and try it on.

Both say the same to everybody, and everything comes from this service: the page is Swagger UI, whose files BentoML ships. BentoML's own
page would load badges and a tag manager of others into the browser.
"""

import asyncio
from functools import cache
from pathlib import Path

import bentoml
import orjson
import yaml
from starlette.responses import Response

from loupe import __version__
from loupe.old_errors.service import RouteNotFound
from service.prediction.predictor import Call, route

PROTOCOL = "pages"  # in the metrics
DESCRIPTION = Path(__file__).with_name("openapi.yaml")
PAGE = Path(__file__).with_name("page")
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
STATIC = "/static_content/"  # where BentoML has them too
FILES = {
    "page.css": PAGE,
    "page.js": PAGE,
    "swagger-ui.css": SWAGGER,
    "swagger-ui-bundle.js": SWAGGER,
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
OPEN_PATHS = frozenset({"/", "/openapi.json", "/docs.json", *(STATIC + name for name in FILES)})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CACHED = {
    "Cache-Control": "max-age=3600"
}  # seconds; they change with the version of Loupe or BentoML


@cache
def description() -> bytes:
    """The OpenAPI document, in JSON."""
    document = yaml.load(DESCRIPTION.read_bytes(), yaml.CSafeLoader)
    document["info"]["version"] = __version__
    return orjson.dumps(document)


async def openapi(call: Call) -> Response:
    """What the API is."""
    return Response(await asyncio.to_thread(description), media_type="application/json")


async def page(call: Call) -> Response:
    """The same, for people."""
    body = await asyncio.to_thread((PAGE / "index.html").read_bytes)
    return Response(body, headers={"Content-Security-Policy": POLICY}, media_type="text/html")


async def static(call: Call) -> Response:
    """A file of the page."""
    name = call.request.path_params["file"]
    if name not in FILES:
        raise RouteNotFound(
            f"one of {', '.join(STATIC + each for each in FILES)}", call.request.scope["path"]
        )
    body = await asyncio.to_thread((FILES[name] / name).read_bytes)
    return Response(body, headers=CACHED, media_type=MEDIA_TYPES[Path(name).suffix])


ROUTES = [
    route("GET", "/", PROTOCOL, page),
    route("GET", "/openapi.json", PROTOCOL, openapi),
    route("GET", "/docs.json", PROTOCOL, openapi),
    route("GET", STATIC + "{file}", PROTOCOL, static),
]
