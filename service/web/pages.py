"""The OpenAPI document, and the page at `/` that shows it.

The page is Swagger UI, whose files BentoML ships; everything comes from this service. BentoML's own
page would load badges and a tag manager from other sites.
"""

import asyncio
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bentoml
import orjson
import yaml
from starlette.responses import Response

from loupe import __version__
from loupe.errors import NotFound
from service.http.validation import shown
from service.prediction.predictor import Call, route

PROTOCOL = "pages"  # label in the metrics
DOCUMENT = Path(__file__).with_name("openapi.yaml")
ERRORS = Path(__file__).with_name("errors.yaml")  # examples for the document
PAGE = Path(__file__).with_name("page")
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
STATIC = "/static_content/"  # as in BentoML
FILES = {
    "page.css": PAGE,
    "page.js": PAGE,
    "swagger-ui.css": SWAGGER,
    "swagger-ui-bundle.js": SWAGGER,
}
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript"}
OPEN_PATHS = frozenset({"/", "/openapi.json", "/docs.json", *(STATIC + name for name in FILES)})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CACHED = {"Cache-Control": "max-age=3600"}  # seconds; files change with Loupe or BentoML


@lru_cache(maxsize=8)
def document(prefix: str = "") -> bytes:
    """Return the OpenAPI document as JSON; `prefix` is the path before the service's own."""
    content = yaml.load(DOCUMENT.read_bytes(), yaml.CSafeLoader)
    content["info"]["version"] = __version__
    content["servers"] = [{"url": prefix or "/"}]
    examples = yaml.load(ERRORS.read_bytes(), yaml.CSafeLoader)
    for path, operations in content["paths"].items():
        for method, operation in operations.items():
            if method != "parameters":
                _add_errors(f"{method.upper()} {path}", operation["responses"], content, examples)
    return orjson.dumps(content)


def _add_errors(
    name: str,
    responses: dict[str, dict[str, Any]],
    content: dict[str, Any],
    examples: dict[str, dict[str, str | None]],
) -> None:
    """Give the errors of an operation, such as `GET /jobs`, its own examples."""
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST:
            shared = response.get("$ref", "").rpartition("/")[2]
            found = content["components"]["responses"][shared] if shared else response
            body = found["content"]["application/json"]
            code = body["schema"]["properties"]["code"]
            own = {}
            for each in code.get("enum", [code.get("const")]):
                prefixes = [prefix for prefix in examples.get(each, {}) if name.startswith(prefix)]
                message = examples[each][max(prefixes, key=len)] if prefixes else None
                if message is not None:
                    own[each] = {"value": {"error": message, "code": each}}
            responses[status] = {
                **found,
                "content": {"application/json": {**body, "examples": own}},
            }


async def openapi(call: Call) -> Response:
    """Return the OpenAPI document."""
    return Response(await asyncio.to_thread(document, call.prefix), media_type="application/json")


async def page(call: Call) -> Response:
    """Return the page."""
    body = await asyncio.to_thread((PAGE / "index.html").read_bytes)
    return Response(body, headers={"Content-Security-Policy": POLICY}, media_type="text/html")


async def static(call: Call) -> Response:
    """Return a file of the page."""
    name = call.request.path_params["file"]
    if name not in FILES:
        files = ", ".join(STATIC + each for each in FILES)
        raise NotFound(f"The page has no file {shown(name)}. Its files: {files}.")
    body = await asyncio.to_thread((FILES[name] / name).read_bytes)
    return Response(body, headers=CACHED, media_type=MEDIA_TYPES[Path(name).suffix])


ROUTES = [
    route("GET", "/", PROTOCOL, page),
    route("GET", "/openapi.json", PROTOCOL, openapi),
    route("GET", "/docs.json", PROTOCOL, openapi),
    route("GET", STATIC + "{file}", PROTOCOL, static),
]
