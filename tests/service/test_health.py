"""What the service says of itself, before and after it is told to stop."""

import asyncio

import httpx
import pytest

from loupe.models.store import StoredModel
from loupe.settings import Settings
from service import health
from service.prediction.predictor import Predictor, Routes
from service.protocols.open_inference import rest as open_inference


@pytest.fixture
def routes(digits_model: StoredModel) -> Routes:
    """Those that are asked by whoever decides where requests go."""
    made = Routes([*health.ROUTES, *open_inference.ROUTES])
    made.predictor = Predictor(Settings(model=digits_model.tag))
    return made


def asked(routes: Routes, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(routes), base_url="http://loupe"
        ) as client:
            return await client.get(path)

    return asyncio.run(ask())


@pytest.mark.parametrize("path", ["/readyz", "/v2/health/ready"])
def test_a_service_that_was_told_to_stop_is_not_ready(routes: Routes, path: str) -> None:
    assert asked(routes, path).status_code == 200
    routes.predictor.stopping = True

    answer = asked(routes, path)

    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert (
        asked(routes, "/v2/health/live").status_code == asked(routes, "/livez").status_code == 200
    )
