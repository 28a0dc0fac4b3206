"""The Bento service: BentoML packages and serves the app of `service.app`."""

from pathlib import Path

import bentoml
import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from loupe.settings import Settings, load_settings
from service.app import create_app


def settings_of(source: Path) -> Settings:
    """Return the settings; a Bento serves the models it names, unless `LOUPE_MODELS` is set.

    Args:
        source: The folder with the code: in a Bento, `src` next to `bento.yaml`.
    """
    settings = load_settings().model_copy(update={"processes": 1})  # BentoML has its own
    record = source.parent / "bento.yaml"
    if settings.models is not None or source.name != "src" or not record.is_file():
        return settings
    models = yaml.safe_load(record.read_bytes())["models"]
    return settings.model_copy(update={"models": ",".join(model["tag"] for model in models)})


app = create_app(settings_of(Path(__file__).parents[1]))


class AppFirst:
    """Middleware that lets the mounted app answer before BentoML's own routes.

    BentoML has `/readyz`, `/schema.json` and a few others, and matches them before those of
    mounted apps. Its start and stop still run, and with them those of the mounted app.
    """

    def __init__(self, app: ASGIApp, mounted: ASGIApp) -> None:
        self._app = app
        self._mounted = mounted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await (self._mounted if scope["type"] == "http" else self._app)(scope, receive, send)


@bentoml.service(
    name="loupe",
    workers=1,
    traffic={"timeout": 30},  # seconds until the response starts; leaves a timer per request
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(app)
class Loupe:
    """Classifies small images."""


Loupe.add_asgi_middleware(AppFirst, mounted=app)  # type: ignore[attr-defined]
