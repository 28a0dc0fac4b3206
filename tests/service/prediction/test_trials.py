"""Trials of a version beside the one in production, in the app without a server."""

import asyncio
import io
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models import trials
from loupe.models.engines.engine import Outputs
from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app
from service.prediction.served_models import ServedModels
from tests.support.averages import STEEP, store_averages
from tests.support.stores import copied

SPEC = ImageSpec("photo", 16, 16)


@pytest.fixture(scope="module")
def versions() -> tuple[StoredModel, StoredModel]:
    """Store a model that is right, and one that is always wrong."""
    return store_averages("shades", SPEC), store_averages("inverse", SPEC, steep=-STEEP)


@pytest.fixture
def right(versions: tuple[StoredModel, StoredModel], store: Path) -> StoredModel:
    """Return the version in production."""
    model = copied(versions[0], store, "shades:right")
    promote(model.tag)
    return model


@pytest.fixture
def twin(right: StoredModel, store: Path) -> StoredModel:
    """Return another version that answers alike."""
    return copied(right, store, "shades:twin")


@pytest.fixture
def wrong(
    versions: tuple[StoredModel, StoredModel], right: StoredModel, store: Path
) -> StoredModel:
    """Return another version that is always wrong."""
    return copied(versions[1], store, "shades:wrong")


class Service:
    """The app, and a client of it."""

    def __init__(self, client: httpx.AsyncClient, models: ServedModels) -> None:
        self.client = client
        self.models = models

    async def answers(self, count: int, images: int = 1, model: str = "") -> list[httpx.Response]:
        """Send light images, one request after the other, and let the comparisons end."""
        file = io.BytesIO()
        np.save(file, np.full((images, 16, 16), 255, np.uint8))
        body = file.getvalue()
        query = {"model": model} if model else {}
        found = []
        for _ in range(count):
            found.append(await self.client.post("/predict_batch", params=query, content=body))
            await asyncio.sleep(0.01)
        return found

    async def counted(self) -> dict[str, float]:
        """Return the images of trials by outcome."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return {
            line.split('outcome="')[1].split('"')[0]: float(line.rpartition(" ")[2])
            for line in lines
            if line.startswith("loupe_trial_images_total{")
        }


@asynccontextmanager
async def serving() -> AsyncIterator[Service]:
    app = create_app(Settings(model="shades"))
    models = app.state.predictor.models
    models.load()
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    headers = {"content-type": "application/x-npy"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://loupe", headers=headers
    ) as client:
        yield Service(client, models)
    await app.state.predictor.close()


def by_model(answers: list[httpx.Response]) -> Counter[str]:
    return Counter(answer.json()["model"] for answer in answers)


def test_canary_answers_its_share_of_the_requests_for_the_name(
    right: StoredModel, twin: StoredModel
) -> None:
    async def story() -> None:
        async with serving() as service:
            assert by_model(await service.answers(3)) == {right.tag: 3}
            trials.begin(twin.tag, "canary", 0.5)
            await service.models.refresh()
            found = by_model(await service.answers(60))
            assert set(found) == {right.tag, twin.tag}
            assert await service.counted() == {"agreed": found[twin.tag], "disagreed": 0}
            # A version that is asked for by its tag answers.
            assert by_model(await service.answers(9, model=right.tag)) == {right.tag: 9}
            assert by_model(await service.answers(2, model=twin.tag)) == {twin.tag: 2}
            trials.stop("shades")
            await service.models.refresh()
            assert by_model(await service.answers(9)) == {right.tag: 9}
            assert service.models.tags() == [right.tag]

    asyncio.run(story())


def test_shadow_is_compared_and_never_answers(right: StoredModel, wrong: StoredModel) -> None:
    async def story() -> None:
        async with serving() as service:
            trials.begin(wrong.tag, "shadow", max_disagreement=1)
            await service.models.refresh()
            assert by_model(await service.answers(30, images=4)) == {right.tag: 30}
            assert await service.counted() == {"agreed": 0, "disagreed": 120}

    asyncio.run(story())
    assert trials.running()


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_trial_ends_when_the_version_disagrees(
    right: StoredModel, wrong: StoredModel, kind: trials.Kind
) -> None:
    async def story() -> None:
        async with serving() as service:
            trials.begin(wrong.tag, kind, 1, max_disagreement=0.5)
            await service.models.refresh()
            await service.answers(26, images=4)
            assert by_model(await service.answers(3)) == {right.tag: 3}

    asyncio.run(story())
    ended = trials.find("shades")
    assert ended is not None
    assert (ended.reason, ended.compared, ended.disagreed) == ("disagreement", 100, 100)


def fail(images: UInt8Array) -> Outputs:
    """Fail on every batch, as an engine may."""
    raise RuntimeError("out of order")


@pytest.mark.parametrize("kind", ["canary", "shadow"])
def test_trial_ends_when_the_version_fails(
    right: StoredModel,
    twin: StoredModel,
    kind: trials.Kind,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def story() -> None:
        async with serving() as service:
            trials.begin(twin.tag, kind, 1)
            await service.models.refresh()
            monkeypatch.setattr(service.models.find(twin.tag).batcher, "_run", fail)
            codes = [answer.status_code for answer in await service.answers(6)]
            assert codes == [500] * 3 + [200] * 3 if kind == "canary" else [200] * 6

    asyncio.run(story())
    ended = trials.find("shades")
    assert ended is not None
    assert ended.reason == "failures"


def test_trial_ends_when_the_version_is_slow(
    right: StoredModel, twin: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with serving() as service:
            trials.begin(twin.tag, "shadow", max_slowdown=2)
            await service.models.refresh()
            batcher = service.models.find(twin.tag).batcher
            run = batcher._run

            def dawdle(images: UInt8Array) -> Outputs:
                time.sleep(0.02)
                return run(images)

            monkeypatch.setattr(batcher, "_run", dawdle)
            for _ in range(13):
                await service.answers(1, images=8)
                await asyncio.sleep(0.05)

    asyncio.run(story())
    ended = trials.find("shades")
    assert ended is not None
    assert ended.reason == "slow"


def test_trial_of_a_version_that_was_promoted_is_over(
    right: StoredModel, twin: StoredModel
) -> None:
    async def story() -> None:
        async with serving() as service:
            trials.begin(twin.tag, "canary", 0.5)
            promote(twin.tag, force=True)
            await service.models.refresh()
            assert by_model(await service.answers(9)) == {twin.tag: 9}
            assert await service.counted() == {}

    asyncio.run(story())
