"""Facts from proxies: who is believed, and what the app behind sees."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from loupe.settings import Settings
from service.http.context import context_of
from service.http.proxies import ProxyMiddleware

TRUSTED = "10.0.0.0/8, 192.0.2.1"


def seen(path: str, client: str, root_path: str | None = None, **headers: str) -> tuple[str, ...]:
    """Return the path, the client and the prefix that the app sees."""
    scope: Scope = {
        "type": "http",
        "path": path,
        "scheme": "http",
        "client": (client, 1),
        "headers": [
            (f"x-forwarded-{name.replace('_', '-')}".encode(), value.encode())
            for name, value in headers.items()
        ],
    }
    found: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.extend((scope["path"], scope["client"][0], context_of(scope).prefix))

    async def receive() -> Message:
        raise NotImplementedError

    async def send(message: Message) -> None:
        raise NotImplementedError

    middleware = ProxyMiddleware(app, Settings(trusted_proxies=TRUSTED, root_path=root_path))
    asyncio.run(middleware(scope, receive, send))
    return tuple(found)


@pytest.mark.parametrize("proxy", ["10.1.2.3", "192.0.2.1"])
def test_trusted_proxy_is_believed(proxy: str) -> None:
    given = seen("/predict", proxy, **{"for": "198.51.100.7", "prefix": "/loupe"})

    assert given == ("/predict", "198.51.100.7", "/loupe")


def test_others_are_not_believed() -> None:
    given = seen("/predict", "192.0.2.2", **{"for": "198.51.100.7", "prefix": "/loupe"})

    assert given == ("/predict", "192.0.2.2", "")


@pytest.mark.parametrize("prefix", ["//evil.example", "https://evil.example", "/a b", "x", "/a\n"])
def test_prefix_that_is_not_a_path_is_ignored(prefix: str) -> None:
    assert seen("/predict", "10.0.0.1", prefix=prefix) == ("/predict", "10.0.0.1", "")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/loupe/predict", "/predict"),
        ("/predict", "/predict"),
        ("/loupe/loupe/predict", "/loupe/predict"),
        ("/loupes/predict", "/loupes/predict"),
    ],
)
def test_root_path_is_removed_once(path: str, expected: str) -> None:
    assert seen(path, "198.51.100.7", "/loupe") == (expected, "198.51.100.7", "/loupe")
