"""API keys, the access log, and headers of responses."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loupe import Client
from loupe.errors import RequestRefused
from loupe.models.store import StoredModel
from service.http.keys import digest_of
from tests.support import pictures
from tests.support.programs import RunningService, run, serving, until

DIGIT = pictures.png(pictures.digits(1)[0])
KEY = "the-key-of-alice-0001"


@pytest.fixture(scope="module")
def guarded(
    digits_model: StoredModel, shapes_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service with one key, one allowed origin and a JSON log of every request."""
    settings = {
        "LOUPE_API_KEYS": f"alice:sha256:{digest_of(KEY)}",
        "LOUPE_CORS_ORIGINS": "https://pages.example",
        "LOUPE_ACCESS_LOG": "true",
        "LOUPE_LOG_FORMAT": "json",
        "LOUPE_MODEL": digits_model.tag,
    }
    with serving(tmp_path_factory.mktemp("guarded") / "log", **settings) as service:
        yield service


@pytest.fixture
def caller(guarded: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=guarded.url, timeout=50) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer {KEY}"}, {"X-API-Key": KEY}],
)
def test_client_with_a_key_may_call_and_is_counted(
    caller: httpx.Client, headers: dict[str, str]
) -> None:
    assert caller.post("/predict", content=DIGIT, headers=headers).status_code == 200
    metrics = caller.get("/metrics", headers=headers).text
    assert (
        'loupe_requests_total{key="alice",model="digits",protocol="loupe",status="200"}' in metrics
    )


def test_client_and_command_line_send_their_key(guarded: RunningService, tmp_path: Path) -> None:
    with Client(guarded.url) as stranger, pytest.raises(RequestRefused) as raised:
        stranger.predict(DIGIT)
    assert (raised.value.status, raised.value.code) == (401, "unauthorized")
    with Client(guarded.url, api_key=KEY) as client:
        (default,) = [model.model for model in client.models() if model.default]
        assert client.predict(DIGIT).model == default
    file = tmp_path / "digit.png"
    file.write_bytes(DIGIT)
    assert run("predict", file, LOUPE_URL=guarded.url, LOUPE_API_KEY=KEY).returncode == 0


@pytest.mark.parametrize(
    ("headers", "received"),
    [
        ({}, "missing"),
        ({"Authorization": "Bearer wrong-key-of-alice"}, "unknown"),
        ({"Authorization": f"Basic {KEY}"}, "missing"),
        ({"X-API-Key": digest_of(KEY)}, "unknown"),
    ],
)
@pytest.mark.parametrize(
    "route",
    ["/predict", "/models", "/metrics", "/nowhere", "/schema.json", "/static/nothing.js"],
)
def test_client_without_a_key_is_refused(
    caller: httpx.Client, route: str, headers: dict[str, str], received: str
) -> None:
    answer = (
        caller.post(route, content=DIGIT, headers=headers)
        if route == "/predict"
        else caller.get(route, headers=headers)
    )

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json().keys() == {"error", "code"}
    assert answer.json()["code"] == "unauthorized"
    assert received in answer.json()["error"]


@pytest.mark.parametrize(
    "route",
    [
        *("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready"),
        *(
            "/",
            "/docs",
            "/openapi.json",
            "/docs.json",
            "/static/main.js",
            "/static/swagger-ui-bundle.js",
        ),
    ],
)
def test_health_and_documentation_need_no_key(caller: httpx.Client, route: str) -> None:
    assert caller.get(route).status_code == 200


def test_request_keeps_its_id_or_gets_one(caller: httpx.Client) -> None:
    assert (
        caller.get("/livez", headers={"X-Request-ID": "order-66:a.b_c"}).headers["x-request-id"]
        == "order-66:a.b_c"
    )
    given, again = (caller.get("/livez").headers["x-request-id"] for _ in range(2))
    assert given != again
    assert caller.get("/livez", headers={"X-Request-ID": "a b"}).headers["x-request-id"] != "a b"


def test_access_log_has_request_id_and_key_name(
    guarded: RunningService, caller: httpx.Client
) -> None:
    caller.post("/predict", content=DIGIT, headers={"X-API-Key": KEY, "X-Request-ID": "in-the-log"})

    def logged() -> list[dict[str, object]]:
        lines = [
            json.loads(line)
            for line in guarded.log.read_text().splitlines()
            if line.startswith("{")
        ]
        return [line for line in lines if line.get("request_id") == "in-the-log"]

    (line,) = until(logged)
    assert (line["method"], line["path"], line["status"], line["key"]) == (
        "POST",
        "/predict",
        200,
        "alice",
    )
    assert KEY not in guarded.log.read_text()


def test_responses_have_security_headers(caller: httpx.Client) -> None:
    headers = caller.get("/livez").headers

    assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")


def test_only_configured_origins_may_call(caller: httpx.Client, client: httpx.Client) -> None:
    asked = {"Origin": "https://pages.example", "Access-Control-Request-Method": "POST"}

    assert (
        caller.options("/predict", headers=asked).headers["access-control-allow-origin"]
        == "https://pages.example"
    )
    other = caller.options("/predict", headers={**asked, "Origin": "https://other.example"})
    assert "access-control-allow-origin" not in other.headers
    assert (
        "access-control-allow-origin"
        not in client.get("/livez", headers={"Origin": "https://pages.example"}).headers
    )


def test_pages_may_read_a_401(caller: httpx.Client) -> None:
    answer = caller.get("/models", headers={"Origin": "https://pages.example"})

    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (
        401,
        "https://pages.example",
    )


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [({}, 401, "unauthorized"), ({"X-Long": "x" * 40_000}, 431, "headers_too_large")],
)
def test_refusals_are_counted(
    caller: httpx.Client, headers: dict[str, str], status: int, code: str
) -> None:
    def counted(name: str) -> float:
        lines = caller.get("/metrics", headers={"X-API-Key": KEY}).text.splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    names = (
        f'loupe_rejected_total{{code="{code}"}}',
        f'loupe_requests_total{{key="-",model="-",protocol="-",status="{status}"}}',
    )
    before = [counted(name) for name in names]
    for _ in range(3):
        assert caller.get("/models", headers=headers).status_code == status
    assert [counted(name) for name in names] == [count + 3 for count in before]


def test_long_headers_are_refused(caller: httpx.Client) -> None:
    answer = caller.get("/livez", headers={"X-Long": "x" * 40_000})

    assert (answer.status_code, answer.json()["code"]) == (431, "headers_too_large")


def test_invalid_keys_stop_the_start(digits_model: StoredModel) -> None:
    ended = run("serve", LOUPE_API_KEYS="secret")

    assert ended.returncode == 1
    assert "LOUPE_API_KEYS: entry 1" in ended.stderr
    assert "secret" not in ended.stderr


def test_public_service_without_keys_logs_a_warning(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    with serving(
        tmp_path / "log",
        LOUPE_MODEL=digits_model.tag,
        LOUPE_HOST="0.0.0.0",  # noqa: S104
    ) as open_to_all:
        assert "without API keys: every client may call" in open_to_all.log.read_text()


def test_new_key_is_printed_with_its_entry() -> None:
    words = run("key", "alice").stdout.split()

    assert (
        words[words.index("entry") + 1]
        == f"alice:sha256:{digest_of(words[words.index('key') + 1])}"
    )
