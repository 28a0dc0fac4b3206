"""A path prefix, and facts about the client, from proxies that the service trusts."""

import io
import json
import re
import zipfile

import httpx
import pytest

from tests.e2e.clients.conftest import KEY
from tests.support import pictures
from tests.support.programs import PATIENCE_SECONDS, RunningService, until

WITH_KEY = {"X-API-Key": KEY}
DIGIT = pictures.png(pictures.digits(1)[0])


@pytest.fixture(params=["prefix", "whole"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Return a prefix that nginx removes, or leaves to the service."""
    return f"/{request.param}"


def test_links_have_the_prefix(nginx: str, prefix: str) -> None:
    files = io.BytesIO()
    with zipfile.ZipFile(files, "w") as archive:
        archive.writestr(f"{prefix[1:]}.png", DIGIT)
    with httpx.Client(base_url=nginx, headers=WITH_KEY, timeout=PATIENCE_SECONDS) as client:
        document = client.get(f"{prefix}/openapi.json").json()
        models = client.get(f"{prefix}/models").json()["models"]
        headers = {"Content-Type": "application/zip"}
        submitted = client.post(f"{prefix}/jobs", content=files.getvalue(), headers=headers)
        page = client.get(f"{prefix}/")
        own = [
            link for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text) if ":" not in link
        ]
        found = [client.get(httpx.URL(page.url).join(link)).status_code for link in own]
        report = client.get(httpx.URL(page.url).join(models[0]["report"]))

        assert document["servers"] == [{"url": prefix}]
        assert submitted.status_code == 202, submitted.text
        assert submitted.headers["Location"] == f"{prefix}/jobs/{submitted.json()['id']}"
        assert client.get(submitted.headers["Location"]).status_code == 200
        assert page.status_code == 200
        assert own
        assert set(found) == {200}
        assert report.status_code == 200


def test_log_names_the_client_and_not_who_it_claims_to_be(
    nginx: str, guarded: RunningService, prefix: str
) -> None:
    claims = {"X-Forwarded-For": "198.51.100.1, 192.0.2.7", "X-Request-ID": f"claims{prefix[1:]}"}
    httpx.get(f"{nginx}{prefix}/models", headers={**WITH_KEY, **claims})

    (line,) = until(lambda: logged(guarded, claims["X-Request-ID"]))

    assert (line["client"], line["status"]) == ("192.0.2.7", 200)


@pytest.mark.parametrize("given", ["//evil.example", "https://evil.example", "/a b", "/..//", '/"'])
def test_other_prefixes_are_ignored(guarded: RunningService, given: str) -> None:
    headers = {**WITH_KEY, "X-Forwarded-Prefix": given}

    assert servers(guarded, headers) == [{"url": "/"}]


def test_prefix_of_an_unknown_proxy_is_ignored(service: RunningService) -> None:
    assert servers(service, {"X-Forwarded-Prefix": "/prefix"}) == [{"url": "/"}]


def servers(service: RunningService, headers: dict[str, str]) -> object:
    return httpx.get(f"{service.url}/openapi.json", headers=headers).json()["servers"]


def logged(service: RunningService, request_id: str) -> list[dict[str, object]]:
    """Return the lines about a request in a JSON log."""
    lines = service.log.read_text().splitlines()
    return [json.loads(line) for line in lines if f'"request_id": "{request_id}"' in line]
