"""Refusal of requests that foreign web pages send through their visitors' browsers.

A service without API keys trusts everyone who reaches it, and a browser on this machine does.
Sources: https://www.w3.org/TR/fetch-metadata/, https://www.rfc-editor.org/rfc/rfc6454
"""

import ipaddress
from collections.abc import Mapping
from functools import lru_cache

from loupe.errors import Forbidden
from loupe.settings import Settings
from service.http.validation import shown

BROWSERS_HEADERS = frozenset({b"sec-fetch-site", b"origin", b"referer"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})  # methods that change nothing


class BrowserRules:
    """The rules for requests from browsers.

    Args:
        settings: The allowed origins and names of hosts.
        is_local: Whether the service listens on loopback only. Without API keys, it then refuses
            other names: an attacker's name can lead to this machine (DNS rebinding).
    """

    def __init__(self, settings: Settings, is_local: bool) -> None:
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._checks_origin = not settings.needs_keys and b"*" not in self._origins
        self._names = frozenset(name.lower() for name in settings.host_names)
        is_exposed = is_local and not settings.needs_keys
        self._checks_host = "*" not in self._names and bool(self._names or is_exposed)

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Check the headers of a request.

        Raises:
            Forbidden: If a foreign page sent it, or its `Host` is not allowed.
        """
        host = headers.get(b"host")
        if self._checks_host and host is not None:
            name = _foreign_name(host)
            if name is not None and name not in self._names:
                raise Forbidden(
                    f"The service does not answer to the name {shown(name)}. "
                    "Its operator can add the name to LOUPE_ALLOWED_HOSTS.",
                    code="host_forbidden",
                )
        is_browser = self._checks_origin and not BROWSERS_HEADERS.isdisjoint(headers)
        if is_browser and self._is_foreign(method, headers, host):
            raise Forbidden(
                "Pages of other origins may not call the service. "
                "Its operator can add the origin to LOUPE_CORS_ORIGINS.",
                code="origin_forbidden",
            )

    def _is_foreign(self, method: str, headers: Mapping[bytes, bytes], host: bytes | None) -> bool:
        site = headers.get(b"sec-fetch-site")
        # Browsers before 2020 send forms without an `Origin`.
        origin = headers.get(b"origin") or _origin_of(headers.get(b"referer", b""))
        if origin in self._origins:
            return False
        if site is None:  # no browser, an older one, or one that did not use TLS
            is_own = not origin or origin.partition(b"://")[2] == host
            return method not in READING and not is_own
        if method in READING:  # links from other pages are fine
            is_link = headers.get(b"sec-fetch-mode") in (b"navigate", b"cors")
            return site == b"cross-site" and not is_link
        return site not in (b"same-origin", b"none")


def _origin_of(url: bytes) -> bytes:
    scheme, separator, rest = url.partition(b"://")
    return scheme + separator + rest.partition(b"/")[0]


@lru_cache(maxsize=64)
def _foreign_name(host: bytes) -> str | None:
    """Return the name in a `Host` header, or `None` for an address or `localhost`."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return None
    name = text.partition(":")[0].removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return None
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name
    return None
