"""A service with keys, nginx and HAProxy in front of it, and what their clients send."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loupe.models.store import StoredModel
from service.http.keys import digest_of
from tests.support import pictures
from tests.support.programs import RunningService, free_port, serving
from tests.support.servers.proxies import running_proxy

HERE = Path(__file__).parent
KEY = "the-key-of-carol-0003"
MAX_BODY_BYTES = 4 * 2**20
SETTINGS = {
    "LOUPE_API_KEYS": f"carol:sha256:{digest_of(KEY)}",
    "LOUPE_ACCESS_LOG": "true",
    "LOUPE_LOG_FORMAT": "json",
    "LOUPE_MAX_BODY_BYTES": MAX_BODY_BYTES,
    "LOUPE_MAX_JSON_BYTES": MAX_BODY_BYTES,
    "LOUPE_TRUSTED_PROXIES": "127.0.0.1",
}
LOCATIONS = ("closing", "kept", "kept_old", "upgrading", "unbuffered", "prefix")  # of nginx


@pytest.fixture(scope="package")
def guarded(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service that needs a key, trusts proxies on this machine, and logs every request."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = {"LOUPE_DATA_DIR": folder / "data", "LOUPE_MODEL": digits_model.tag, **SETTINGS}
    with serving(folder / "log", **settings) as service:
        yield service


@pytest.fixture(scope="package")
def nginx(guarded: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run nginx in front of that service; return its URL."""
    values = {"PORT": free_port(), "TARGET": guarded.url.removeprefix("http://")}
    with running_proxy(HERE / "nginx.conf", tmp_path_factory.mktemp("nginx"), values):
        yield f"http://127.0.0.1:{values['PORT']}"


@pytest.fixture(scope="package")
def haproxy_ports(
    guarded: RunningService, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """Run HAProxy in front of that service; return its ports for HTTP/1.1 and HTTP/2."""
    ports = {"PORT": free_port(), "HTTP2": free_port()}
    values = {**ports, "TARGET": guarded.url.removeprefix("http://")}
    with running_proxy(HERE / "haproxy.cfg", tmp_path_factory.mktemp("haproxy"), values):
        yield ports


@pytest.fixture(params=["direct", *LOCATIONS, "haproxy"])
def base(request: pytest.FixtureRequest) -> str:
    """Return a URL of that service, direct or through a proxy."""
    way = request.param
    if way == "direct":
        service: RunningService = request.getfixturevalue("guarded")
        return service.url
    if way == "haproxy":
        return f"http://127.0.0.1:{request.getfixturevalue('haproxy_ports')['PORT']}"
    return f"{request.getfixturevalue('nginx')}/{way}"


@pytest.fixture(params=["direct", "nginx", "haproxy"])
def bases(request: pytest.FixtureRequest) -> list[str]:
    """Return all URLs of that service through one program; some clients start slowly."""
    if request.param == "nginx":
        nginx = request.getfixturevalue("nginx")
        return [f"{nginx}/{location}" for location in LOCATIONS]
    if request.param == "haproxy":
        return [f"http://127.0.0.1:{request.getfixturevalue('haproxy_ports')['PORT']}"]
    service: RunningService = request.getfixturevalue("guarded")
    return [service.url]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return a PNG file."""
    path = tmp_path / "digit.png"
    path.write_bytes(pictures.png(pictures.digits(1)[0]))
    return path
