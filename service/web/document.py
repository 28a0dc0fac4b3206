"""The OpenAPI document."""

import asyncio
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

import orjson
import yaml
from starlette.responses import Response

from loupe import __version__
from service.prediction.predictor import Call

DOCUMENT = Path(__file__).with_name("openapi.yaml")
ERRORS = Path(__file__).with_name("errors.yaml")  # examples for the document


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
    """Give the errors of an operation, such as `GET /jobs`, its own codes and examples."""
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST:
            shared = response.get("$ref", "").rpartition("/")[2]
            found = content["components"]["responses"][shared] if shared else response
            body = found["content"]["application/json"]
            code = body["schema"]["properties"]["code"]
            own = {}
            for each in code.get("enum", [code.get("const")]):
                prefixes = [prefix for prefix in examples[each] if name.startswith(prefix)]
                message = examples[each][max(prefixes, key=len)] if prefixes else None
                if message is not None:
                    own[each] = {"value": {"error": message, "code": each}}
            schema = {**body["schema"], "properties": {"code": {"enum": [*own]}}}
            responses[status] = {
                **found,
                "content": {"application/json": {"schema": schema, "examples": own}},
            }


async def openapi(call: Call) -> Response:
    """Return the OpenAPI document."""
    return Response(await asyncio.to_thread(document, call.prefix), media_type="application/json")
