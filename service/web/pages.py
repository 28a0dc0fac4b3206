"""The page at `/`, the description of the API at `/docs`, and their files.

Everything comes from this service. The description is Swagger UI, whose files BentoML ships;
BentoML's own page would load badges and a tag manager from other sites.
"""

import asyncio
import gzip
import hashlib
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path

import bentoml
from starlette.responses import Response

from loupe.errors import NotFound
from service.http.validation import shown
from service.prediction.predictor import Call, route
from service.web.document import openapi

PROTOCOL = "pages"  # label in the metrics
WEB = Path(__file__).parent
SWAGGER = Path(bentoml.__file__).parent / "_internal" / "server" / "static_content"
STATIC = "/static/"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INDEX = "index.html"
PAGE, DOCS = WEB / "page" / INDEX, WEB / "docs" / INDEX
FILES = {
    path.relative_to(page.parent).as_posix(): path
    for page in (PAGE, DOCS)
    for path in sorted(page.parent.rglob("*.*"))
}
FILES |= {name: SWAGGER / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")}
del FILES[INDEX]
OPEN_PATHS = frozenset(
    {"/", "/docs", "/openapi.json", "/docs.json", *(STATIC + name for name in FILES)}
)
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@lru_cache(maxsize=128)
def _load(path: Path) -> tuple[bytes, bytes, str]:
    """Return a file as it is, compressed, and its entity tag."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return content, gzip.compress(content, mtime=0), digest


async def _send(call: Call, path: Path) -> Response:
    """Return a file, compressed if the browser takes that, or 304 if it has the file already."""
    plain, compressed, digest = await asyncio.to_thread(_load, path)
    takes_gzip = "gzip" in call.request.headers.get("accept-encoding", "")
    tag = f'"{digest}-gzip"' if takes_gzip else f'"{digest}"'
    # The browser asks every time: modules of two versions of Loupe must not mix.
    headers = {"Cache-Control": "no-cache", "ETag": tag, "Vary": "Accept-Encoding"}
    headers["Content-Security-Policy"] = POLICY
    if call.request.headers.get("if-none-match", "").removeprefix("W/") == tag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    if takes_gzip:
        headers["Content-Encoding"] = "gzip"
    content = compressed if takes_gzip else plain
    return Response(content, headers=headers, media_type=MEDIA_TYPES[path.suffix])


async def page(call: Call) -> Response:
    """Return the page."""
    return await _send(call, PAGE)


async def docs(call: Call) -> Response:
    """Return the description of the API."""
    return await _send(call, DOCS)


async def static(call: Call) -> Response:
    """Return a file of one of the pages."""
    name = call.request.path_params["file"]
    if name not in FILES:
        raise NotFound(f"The pages have no file {shown(name)}.")
    return await _send(call, FILES[name])


ROUTES = [
    route("GET", "/", PROTOCOL, page),
    route("GET", "/docs", PROTOCOL, docs),
    route("GET", "/openapi.json", PROTOCOL, openapi),
    route("GET", "/docs.json", PROTOCOL, openapi),
    route("GET", STATIC + "{file:path}", PROTOCOL, static),
]
