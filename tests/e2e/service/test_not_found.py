"""Requests without a route get an error like all others."""

import httpx
import pytest
from starlette.routing import Match

from service.http.not_found import NotFoundRoute, not_found

KNOWN = [
    "/predict",
    "/models",
    "/models/{tag}/report",
    "/v2/models/{model}/infer",
    "/v1/models/{model}:predict",
]


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("/modles", "/models"),
        ("/predict/", "/predict"),
        ("/v2/models/digits/infr", "/v2/models/digits/infer"),
        ("/v1/models/digits:predit", "/v1/models/digits:predict"),
        ("/models/digits/reports", "/models/digits/report"),
    ],
)
def test_unknown_path_gets_a_similar_one_as_hint(
    client: httpx.Client, path: str, nearest: str
) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")
    assert f"'{path}'" in answer.json()["error"]
    assert f"Did you mean {nearest}?" in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/nowhere", "/wp-login.php", "/" + "predict" * 5000, "/a%00b", "/a//b", "/é"]
)
def test_unknown_path_without_a_similar_one_gets_no_hint(client: httpx.Client, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")
    assert "Did you mean" not in answer.json()["error"]
    assert len(answer.json()["error"]) < 500


@pytest.mark.parametrize("path", ["/predict%0A", "/a%0Ab", "/models/digits%0A/report"])
def test_path_with_a_newline_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "OPTIONS, POST"),
        ("PUT", "/predict_batch", "OPTIONS, POST"),
        ("DELETE", "/models", "GET, HEAD, OPTIONS"),
        ("POST", "/livez", "GET, HEAD, OPTIONS"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("POST", "/schema.json", "GET, HEAD, OPTIONS"),
        ("TRACE", "/static/main.js", "GET, HEAD, OPTIONS"),
        ("PATCH", "/v2/models/digits/infer", "OPTIONS, POST"),
        ("GET", "/v1/models/digits/labels/latest:predict", "OPTIONS, POST"),
        ("PROPFIND", "/metrics", "GET, HEAD, OPTIONS"),
    ],
)
def test_unsupported_method_gets_the_supported_ones(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    expected = "GET" if "GET" in allowed else "POST"
    assert answer.json()["code"] == "method_not_allowed"
    assert answer.json()["error"] == f"'{path}' supports {expected}, not {method}."
    asked = client.options(path)
    assert (asked.status_code, asked.content, asked.headers["allow"]) == (204, b"", allowed)


def test_head_is_get_without_a_body(client: httpx.Client) -> None:
    for path in ("/livez", "/models", "/", "/openapi.json"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    assert client.head("/predict").status_code == 405
    assert client.options("/nowhere").status_code == 404


def test_unknown_paths_are_counted(client: httpx.Client) -> None:
    client.get("/nowhere")
    metrics = client.get("/metrics").text

    assert 'loupe_rejected_total{code="route_not_found"}' in metrics
    assert 'loupe_requests_total{key="-",model="-",protocol="-",status="404"}' in metrics


def test_pickled_body_is_refused(client: httpx.Client) -> None:
    answer = client.post(
        "/predict", content=b"x", headers={"Content-Type": "application/vnd.bentoml+pickle"}
    )

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")


def test_error_lists_prefixes_of_paths() -> None:
    prefixes = "The paths are /predict, /models, /models/…, /v2/…, /v1/…; "

    assert prefixes in not_found("/", KNOWN).message


def test_websockets_do_not_match() -> None:
    assert NotFoundRoute().matches({"type": "websocket", "path": "/predict"}) == (Match.NONE, {})
