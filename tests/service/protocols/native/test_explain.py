"""Explanations of an answer, in the app without a server."""

import asyncio
import base64
import io

import httpx
import numpy as np
import pytest
from PIL import Image

from loupe.images.spec import UInt8Array
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app
from tests.support import pictures


def explained(settings: Settings, explain: str) -> tuple[httpx.Response, str]:
    """Return the answer to a digit, and the metrics after it."""
    app = create_app(settings)
    app.state.predictor.models.load()

    async def ask() -> tuple[httpx.Response, str]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://loupe") as client:
            picture = pictures.png(pictures.digits(1)[0])
            answer = await client.post("/predict", params={"explain": explain}, content=picture)
            metrics = await client.get("/metrics")
            await app.state.predictor.close()
            return answer, metrics.text

    return asyncio.run(ask())


def image(text: str) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


@pytest.mark.parametrize("queued", [8192, 7])
def test_saliency_fits_into_any_queue_and_is_no_prediction(
    digits_model: StoredModel, queued: int
) -> None:
    settings = Settings(model=digits_model.tag, max_queued_images=queued)
    answer, metrics = explained(settings, "saliency")

    assert answer.status_code == 200
    assert image(answer.json()["seen"]).shape == (28, 28)
    assert image(answer.json()["saliency"]).shape == (224, 224, 3)
    counted = [
        float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        if line.startswith("loupe_predictions_total{")
    ]
    assert sum(counted) == 1


def test_seen_has_no_map(digits_model: StoredModel) -> None:
    answer, _ = explained(Settings(model=digits_model.tag), "seen")

    assert {"seen", "steps"} <= answer.json().keys()
    assert "saliency" not in answer.json()


def test_nearest_shows_training_pictures_and_their_labels(digits_model: StoredModel) -> None:
    answer, _ = explained(Settings(model=digits_model.tag), "nearest")

    nearest = answer.json()["nearest"]
    assert answer.status_code == 200
    assert [image(each["image"]).shape for each in nearest] == [(28, 28)] * 3
    assert {each["label"] for each in nearest} <= set(digits_model.card.class_names)
    assert 1 >= nearest[0]["similarity"] >= nearest[2]["similarity"]
    assert "saliency" not in answer.json()


def test_a_model_without_training_pictures_answers_null(shapes_model: StoredModel) -> None:
    answer, _ = explained(Settings(model=shapes_model.tag), "nearest")

    assert answer.status_code == 200
    assert answer.json()["nearest"] is None


def test_unknown_explanation_is_refused(digits_model: StoredModel) -> None:
    answer, _ = explained(Settings(model=digits_model.tag), "all")

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
