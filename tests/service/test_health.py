"""Health checks, before and after the service starts to shut down."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette

from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app


@pytest.fixture
def app(digits_model: StoredModel) -> Starlette:
    """Return the app with its models loaded."""
    app = create_app(Settings(model=digits_model.tag))
    app.state.predictor.models.load()
    return app


def get(app: Starlette, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://loupe") as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready"])
def test_service_that_shuts_down_is_not_ready(app: Starlette, path: str) -> None:
    assert get(app, path).status_code == 200
    app.state.predictor.draining = True

    response = get(app, path)

    assert (response.status_code, response.json()["code"]) == (503, "shutting_down")
    assert get(app, "/v2/health/live").status_code == get(app, "/livez").status_code == 200
