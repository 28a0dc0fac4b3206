"""The OpenAPI document, compared with routes, errors and answers of the service; and the pages."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from pydantic import JsonValue

from loupe import __version__
from loupe.models.store import StoredModel
from tests.support.programs import RunningService

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).with_name("schemathesis.toml")
METHODS = {"get", "post", "put", "patch", "delete"}
NO_ANSWERS = {
    "caller_gone",  # no client receives it
    "invalid_setting",  # stops the start
    "invalid_key_name",  # of `loupe key`
    "label_not_found",  # a tag of such a label is not served
    "label_in_use",  # of `loupe models delete`, as are the next ones
    "on_trial",
    "version_needed",
}
# Collects the codes of errors where they are created or raised: `code=`, else the class's own.
# It runs in a separate process, so that only the service is imported.
FOUND = """
import ast, inspect, json, sys
import loupe.runtime.redis_server, service.server, worker.queue.jobs, worker.queue.results
from loupe.errors import LoupeError
from loupe.settings import Settings
from service.app import create_app
from starlette.routing import Route


def error_class(module, node):
    parts = ast.unparse(node).split(".")
    found = vars(module).get(parts[0])
    for part in parts[1:]:
        found = getattr(found, part, None)
    return found if isinstance(found, type) and issubclass(found, LoupeError) else None


def codes_of(module):
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Call) and (kind := error_class(module, node.func)):
            given = [each.value for each in node.keywords if each.arg == "code"]
            if not given or isinstance(given[0], ast.Constant):
                yield given[0].value if given else kind.code
        elif isinstance(node, ast.Raise) and node.exc and (kind := error_class(module, node.exc)):
            yield kind.code


ROOMS = ("service.", "loupe.images.", "loupe.models.card", "loupe.models.promotion")
ROOMS += ("loupe.models.store",)
ROOMS += ("loupe.runtime.redis_server", "worker.queue.jobs", "worker.queue.results")
modules = [module for name, module in sys.modules.items() if name.startswith(ROOMS)]
codes = sorted({code for module in modules for code in codes_of(module)})
named = [route for route in create_app(Settings()).routes if isinstance(route, Route)]
methods = [(route.path_format, method) for route in named for method in route.methods or ()]
print(json.dumps({"codes": codes, "routes": methods}))
"""


@pytest.fixture(scope="module")
def description(client: httpx.Client) -> dict[str, JsonValue]:
    """Return the document of a running service."""
    described: dict[str, JsonValue] = client.get("/openapi.json").json()
    return described


@pytest.fixture(scope="module")
def found() -> dict[str, list[JsonValue]]:
    """Codes of all errors in the service's code, and its routes: path and method."""
    ended = subprocess.run(
        [sys.executable, "-c", FOUND], capture_output=True, text=True, cwd=ROOT, check=True
    )
    codes_and_routes: dict[str, list[JsonValue]] = json.loads(ended.stdout)
    return codes_and_routes


def member(value: JsonValue, *names: str) -> dict[str, JsonValue]:
    """Return a nested object."""
    for name in names:
        assert isinstance(value, dict)
        value = value[name]
    assert isinstance(value, dict)
    return value


def codes_in(value: JsonValue) -> set[str]:
    """Return the error codes in a part of the document."""
    if isinstance(value, list):
        return {code for each in value for code in codes_in(each)}
    if not isinstance(value, dict):
        return set()
    if "code" in value and isinstance(value["code"], dict):
        codes = value["code"].get("enum", [value["code"].get("const")])
        return set(map(str, codes)) if isinstance(codes, list) else set()
    return {code for each in value.values() for code in codes_in(each)}


# The document and the code


def test_document_describes_exactly_the_routes(
    description: dict[str, JsonValue], found: dict[str, list[list[str]]]
) -> None:
    paths = member(description, "paths")
    described = {
        (path, method.upper()) for path in paths for method in METHODS & member(paths, path).keys()
    }

    assert described == {(path, method) for path, method in found["routes"] if method != "HEAD"}


def test_document_describes_exactly_the_error_codes(
    description: dict[str, JsonValue], found: dict[str, list[str]]
) -> None:
    answered = set(found["codes"]) - NO_ANSWERS

    assert codes_in(member(description, "components", "schemas", "Error")) == answered
    explained = str(member(description, "info")["description"])
    of_answers = codes_in(description["paths"]) | codes_in(
        member(description, "components", "responses")
    )
    assert (
        of_answers | set(re.findall("`(route_not_found|method_not_allowed)`", explained))
        == answered
    )


def test_every_error_code_is_explained(description: dict[str, JsonValue]) -> None:
    schema = member(description, "components", "schemas", "Error", "properties", "code")
    explained = re.findall(r"^- `(\w+)`: .+\.$", str(schema["description"]), re.MULTILINE)

    assert explained == sorted(explained)
    assert schema["enum"] == explained


def test_version_is_that_of_the_service(
    client: httpx.Client, description: dict[str, JsonValue]
) -> None:
    assert member(description, "info")["version"] == __version__
    assert client.get("/docs.json").json() == description


# The document and the service


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="Schemathesis needs Python 3.11")
@pytest.mark.timeout(300)
def test_answers_to_generated_requests_are_as_described(
    service: RunningService,
    description: dict[str, JsonValue],
    digits_model: StoredModel,
    tmp_path: Path,
) -> None:
    """Schemathesis sends examples, limits, random data and other methods."""
    command = [
        sys.executable,
        "-m",
        "schemathesis.cli",
        "--config-file",
        str(CONFIG),
        "run",
        "--no-color",
    ]
    ended = subprocess.run(
        [*command, f"{service.url}/openapi.json"],
        env={**os.environ, "DIGITS_VERSION": digits_model.version},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    paths = member(description, "paths")
    operations = sum(len(METHODS & member(paths, path).keys()) for path in paths)
    assert f"Tested: {operations - 1}\n" in ended.stdout  # all but the document's own
    assert "Traceback" not in service.log.read_text()


# The pages


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_everything_from_the_service(client: httpx.Client, path: str) -> None:
    page = client.get(path)

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self';" in page.headers["content-security-policy"]
    loaded = re.findall(r'(?:src|link rel="[a-z]+" href)="([^"]+)"', page.text)
    assert len(loaded) >= 4
    for link in loaded:
        assert client.get(link).status_code == 200
    assert "//" not in page.text


def test_files_are_compressed_and_sent_once(client: httpx.Client) -> None:
    plain = client.get("/static/main.js", headers={"Accept-Encoding": "identity"})
    packed = client.get("/static/main.js", headers={"Accept-Encoding": "gzip, br"})
    tags = [answer.headers["etag"] for answer in (plain, packed)]
    again = client.get("/static/main.js", headers={"If-None-Match": f"W/{tags[1]}"})

    assert packed.headers["content-encoding"] == "gzip"
    assert (packed.text, packed.headers["vary"]) == (plain.text, "Accept-Encoding")
    assert int(packed.headers["content-length"]) < len(plain.content) / 2
    assert len(set(tags)) == 2
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["marked.min.js", "index.html", "openapi.yaml"])
def test_pages_serve_only_their_own_files(client: httpx.Client, name: str) -> None:
    refused = client.get(f"/static/{name}")

    assert (refused.status_code, refused.json()["code"]) == (404, "route_not_found")
    assert name in refused.json()["error"]
