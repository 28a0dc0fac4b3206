"""Requests that web pages of other origins send, and names of other machines."""

from typing import Any

import pytest
from pydantic import SecretStr

from loupe.errors import Forbidden
from loupe.settings import Settings
from service.http.origins import BrowserRules

KEYS = SecretStr("alice:the-key-of-alice-0001")


def refusal(
    method: str = "POST", *, is_local: bool = True, settings: Settings | None = None, **headers: Any
) -> str | None:
    """Return the code of the error for a request, if it is refused."""
    sent = {"host": "localhost:3000", **{k.replace("_", "-"): v for k, v in headers.items()}}
    encoded = {name.encode(): value.encode() for name, value in sent.items()}
    try:
        BrowserRules(settings or Settings(), is_local).check(method, encoded)
    except Forbidden as error:
        return error.code
    return None


@pytest.mark.parametrize(
    "headers",
    [
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_site": "same-site", "origin": "http://localhost:8000"},
        {"sec_fetch_site": "cross-site", "origin": "http://localhost:3000"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:3000.evil.example"},
        {"origin": "http://localhost"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_foreign_page_may_change_nothing(method: str, headers: dict[str, Any]) -> None:
    assert refusal(method, **headers) == "origin_forbidden"
    assert refusal(method, settings=Settings(api_keys=KEYS), **headers) is None
    assert refusal(method, settings=Settings(cors_origins="*"), **headers) is None


EVIL = "https://evil.example"
# What a page may send without asking first, and the headers that browsers add about it.
# Sources: https://fetch.spec.whatwg.org/#simple-header,
# https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Origin
SIMPLE_TYPES: list[str | None] = [
    None,  # an empty `Blob`, or a body of bytes
    "text/plain;charset=UTF-8",  # `fetch`, `sendBeacon` and forms with that type
    "application/x-www-form-urlencoded",  # a form, or `URLSearchParams`
    "multipart/form-data; boundary=x",  # a form with files, or `FormData`
]
BROWSERS: dict[str, dict[str, Any]] = {
    "to localhost or https": {"origin": EVIL, "sec_fetch_site": "cross-site"},
    "to an address over http": {"origin": EVIL},
    "without a referrer": {"origin": "null"},
    "without a referrer, to localhost": {"origin": "null", "sec_fetch_site": "cross-site"},
    "from another port": {"origin": "http://localhost:8000", "sec_fetch_site": "same-site"},
    "from another port, over http": {"origin": "http://localhost:8000"},
    "from a file": {"origin": "null", "sec_fetch_site": "cross-site"},
    "form before 2020": {"referer": f"{EVIL}/page"},
    "form before 2020, from the origin's name": {"referer": f"{EVIL}/http://localhost:3000/"},
    "form before 2020, odd referrer": {"referer": "about:blank"},
}


@pytest.mark.parametrize("sent_as", SIMPLE_TYPES)
@pytest.mark.parametrize("browser", BROWSERS)
def test_no_simple_request_of_a_page_is_accepted(browser: str, sent_as: str | None) -> None:
    headers: dict[str, Any] = {**BROWSERS[browser]}
    headers |= {} if sent_as is None else {"content_type": sent_as}
    assert refusal(**headers) == "origin_forbidden"
    assert refusal(is_local=False, **headers) == "origin_forbidden"


@pytest.mark.parametrize("sent_as", SIMPLE_TYPES)
def test_program_may_send_any_type(sent_as: str | None) -> None:
    headers: dict[str, Any] = {} if sent_as is None else {"content_type": sent_as}
    assert refusal(**headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"referer": "http://localhost:3000/"},
        {"referer": "https://app.example/page"},
        {"origin": "http://localhost:3000"},
        {"sec_fetch_site": "same-origin", "origin": "http://localhost:3000"},
        {"sec_fetch_site": "none"},
        {"sec_fetch_site": "cross-site", "origin": "https://app.example"},
        {"origin": "https://app.example"},
    ],
)
def test_programs_its_own_page_and_allowed_pages_may_call(headers: dict[str, Any]) -> None:
    assert refusal(settings=Settings(cors_origins="https://app.example"), **headers) is None


def test_foreign_page_may_link_to_the_service_but_not_embed_it() -> None:
    assert refusal("GET", sec_fetch_site="cross-site", sec_fetch_mode="navigate") is None
    assert refusal("OPTIONS", sec_fetch_site="cross-site", sec_fetch_mode="cors") is None
    assert (
        refusal("GET", sec_fetch_site="cross-site", sec_fetch_mode="no-cors") == "origin_forbidden"
    )


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:3000", "localhost.:3000", "app.localhost"),
        *("127.0.0.1:3000", "10.0.0.7", "[::1]:3000", "service.internal:80"),
    ],
)
def test_local_service_answers_to_addresses_and_known_names(host: str) -> None:
    settings = Settings(allowed_hosts="Service.internal, other")
    assert refusal("GET", settings=settings, host=host) is None


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:3000", "localhost.evil.example", "127.0.0.1.nip.io", ""]
)
def test_local_service_refuses_other_names(host: str) -> None:
    assert refusal("GET", host=host) == "host_forbidden"
    assert refusal("GET", host=host, is_local=False) is None
    assert refusal("GET", host=host, settings=Settings(api_keys=KEYS)) is None
    assert refusal("GET", host=host, settings=Settings(allowed_hosts="*")) is None
    named = Settings(allowed_hosts="service", api_keys=KEYS)
    assert refusal("GET", host=host, is_local=False, settings=named) == "host_forbidden"
