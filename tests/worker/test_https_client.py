"""Sources on web servers that are not trusted."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import InvalidSource, InvalidUrl
from loupe.images.spec import ImageSpec
from loupe.settings import HttpsAccess
from tests.support import pictures
from tests.support.servers import tls_server
from worker import remote_path
from worker.https_client import is_public
from worker.sources.opening import check_source
from worker.storage import parse_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("site")
    np.save(folder / "images.npy", pictures.digits(5))
    with tls_server.serving(folder, tmp_path_factory.mktemp("tls")) as served:
        yield served


@pytest.fixture
def url(site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the server's URL, and trust its certificate."""
    remote_path._open_store.cache_clear()
    monkeypatch.setenv("SSL_CERT_FILE", str(site[1]))
    return site[0]


def check(url: str, https: HttpsAccess) -> None:
    check_source(parse_path(url, https=https), ImageSpec("ink"), https=https)


def test_private_address_is_refused_unless_it_is_allowed(url: str) -> None:
    with pytest.raises(InvalidUrl, match="LOUPE_HTTPS_PRIVATE_ADDRESSES"):
        check(f"{url}/images.npy", "public")
    check(f"{url}/images.npy", "any")


def test_name_of_a_private_address_is_refused(url: str) -> None:
    port = url.rpartition(":")[2]
    with pytest.raises(InvalidUrl, match="LOUPE_HTTPS_PRIVATE_ADDRESSES"):
        check(f"https://localhost:{port}/images.npy", "public")


@pytest.mark.parametrize(
    "host", ["[::1]", "[fe80::1]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]:9"]
)
def test_private_ipv6_address_is_refused_as_such(url: str, host: str) -> None:
    with pytest.raises(InvalidUrl, match="LOUPE_HTTPS_PRIVATE_ADDRESSES"):
        check(f"https://{host}/images.npy", "public")


@pytest.mark.parametrize("host", ["[zz]", "[::1", "::1]", "::1", "[]", "[::1]x", "[127.0.0.1]"])
def test_host_that_is_no_ipv6_address_is_refused(host: str) -> None:
    with pytest.raises(InvalidUrl, match="host"):
        parse_path(f"https://{host}/images.npy", https="public")


def test_redirect_stays_on_https(url: str) -> None:
    check(f"{url}{tls_server.REDIRECTED}/{url}/images.npy", "any")
    plain = url.replace("https:", "http:")
    with pytest.raises(InvalidUrl, match=re.escape(plain)):
        check(f"{url}{tls_server.REDIRECTED}/{plain}/images.npy", "any")


def test_answer_that_is_longer_than_asked_for_is_refused(url: str) -> None:
    with pytest.raises(InvalidSource, match="parts of files"):
        check(f"{url}{tls_server.LONGER}/images.npy", "any")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",  # noqa: S104 - refused
        "224.0.0.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "::ffff:127.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
    ],
)
def test_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_address(address: str) -> None:
    assert is_public(address)
