"""The sample of served pictures, and its limits."""

import asyncio
import base64
import io
import stat
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app
from service.captures import captures
from service.captures.captures import Captures
from tests.support import pictures

DIGITS = pictures.digits(30)
ROWS = np.eye(10, dtype=np.float32)[np.arange(30) % 10]


def kept(folder: Path, model: StoredModel, images: int = 1, **options: object) -> Captures:
    """Offer images one after the other, and wait until they are written."""
    settings = Settings.model_validate({"data_dir": folder, "capture": 1.0, **options})
    sample = Captures(settings)
    for number in range(images):
        sample.offer(model, DIGITS[number : number + 1], ROWS[number : number + 1])
    sample.close()
    return sample


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "PRUNE_SECONDS", 0.0)


def test_image_and_answer_are_kept_in_private_files(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    (capture,) = kept(tmp_path, digits_model).read()

    picture = Image.open(io.BytesIO(base64.b64decode(capture["picture"])))
    assert (np.asarray(picture) == DIGITS[0]).all()
    assert (capture["model"], capture["label"], capture["confidence"]) == (
        digits_model.tag,
        "0",
        1.0,
    )
    assert capture["familiarity"] is None
    folder = tmp_path / "captures"
    (file,) = folder.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_newest_images_stay(tmp_path: Path, digits_model: StoredModel) -> None:
    labels = [
        capture["label"] for capture in kept(tmp_path, digits_model, 6, capture_images=3).read()
    ]

    assert labels == ["5", "4", "3"]
    assert len(list((tmp_path / "captures").iterdir())) == 3


def test_bytes_are_bounded(tmp_path: Path, digits_model: StoredModel) -> None:
    kept(tmp_path, digits_model, 8, capture_bytes=4000)

    sizes = [path.stat().st_size for path in (tmp_path / "captures").iterdir()]
    assert 0 < sum(sizes) <= 4000


def test_old_images_are_not_shown_and_are_deleted(
    tmp_path: Path, digits_model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = kept(tmp_path, digits_model, 2, capture_days=1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_500)
    assert sample.read() == []
    later = int((now + 86_500) * 1e9)
    monkeypatch.setattr(time, "time_ns", lambda: later)
    kept(tmp_path, digits_model, 1, capture_days=1)
    assert len(list((tmp_path / "captures").iterdir())) == 1


def test_few_images_are_kept_in_a_second(
    tmp_path: Path, digits_model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 5.0)
    sample = Captures(Settings(data_dir=tmp_path, capture=1.0))
    sample.offer(digits_model, DIGITS, ROWS)
    sample.offer(digits_model, DIGITS, ROWS)
    sample.close()

    assert len(sample.read()) == captures.MAX_PER_SECOND


def test_share_of_the_images_is_kept(tmp_path: Path, digits_model: StoredModel) -> None:
    assert kept(tmp_path, digits_model, 5, capture=0.0).read() == []


def test_all_images_are_deleted(tmp_path: Path, digits_model: StoredModel) -> None:
    sample = kept(tmp_path, digits_model, 2)

    assert sample.delete() == 2
    assert sample.read() == []


def test_full_disk_harms_no_prediction(tmp_path: Path, digits_model: StoredModel) -> None:
    (tmp_path / "captures").write_text("no folder")

    assert kept(tmp_path, digits_model, 2).read() == []


def test_familiarity_is_that_of_the_answer(tmp_path: Path, digits_model: StoredModel) -> None:
    app = create_app(Settings(model=digits_model.tag, data_dir=tmp_path, capture=1.0))
    app.state.predictor.models.load()

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://loupe") as client:
            answer = await client.post(
                "/predict",
                content=pictures.png(pictures.digits(1)[0]),
                headers={"Content-Type": "image/png"},
            )
        await app.state.predictor.close()
        return answer

    answer = asyncio.run(ask()).json()

    [captured] = Captures(Settings(data_dir=tmp_path)).read()
    assert captured["familiarity"] is not None
    assert captured["familiarity"] == pytest.approx(answer["familiarity"], abs=0.001)
