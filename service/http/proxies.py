"""Facts from proxies in front of the service: the client's address, the scheme, a path prefix."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from loupe.settings import Settings
from service.http.context import context_of

PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")  # without the steps . and ..


class ProxyMiddleware:
    """Reads `X-Forwarded-For`, `-Proto` and `-Prefix` of trusted proxies, and removes the prefix.

    Args:
        app: The next app.
        settings: The trusted proxies and the root path.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._root_path = settings.root_path or ""
        self._app = ProxyHeadersMiddleware(app, settings.proxies)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] == "http":
            context = context_of(scope)
            client = scope.get("client")
            prefix = self._root_path
            if client is not None and client[0] in self._app.trusted_hosts:
                given = context.headers.get(b"x-forwarded-prefix", b"").decode("latin-1")
                prefix = given.rstrip("/") if PREFIX.fullmatch(given.rstrip("/")) else prefix
            context.prefix = prefix
            if prefix and scope["path"].startswith(f"{prefix}/"):
                scope["path"] = scope["path"][len(prefix) :]
        await self._app(scope, receive, send)  # type: ignore[arg-type]
