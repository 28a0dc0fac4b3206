"""Models that other programs trained are served as any other."""

from pathlib import Path

import httpx
import numpy as np

from loupe.models.engines.loading import load_engine
from loupe.models.store import find_model
from tests.support.command import Loupe
from tests.support.onnx_models import convolution
from tests.support.pictures import png
from tests.support.programs import serving


def test_a_model_that_was_not_measured_answers_and_is_listed(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "boots.onnx", shape=(1, 3, 32, 24), flat=(1, -1))
    ended = loupe("models", "import", path, "--classes", "sandal,sneaker,boot", "--input", "0..1")
    assert ended.code == 0, ended.err
    model = find_model("boots")
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3)).astype(np.uint8)
    expected = load_engine(model).predict(images)

    with (
        serving(tmp_path / "log", BENTOML_HOME=store, LOUPE_DATA_DIR=tmp_path / "data") as service,
        httpx.Client(base_url=service.url, timeout=50) as client,
    ):
        (listed,) = client.get("/models").json()["models"]
        one = client.post("/predict", content=png(images[0])).json()
        batch = client.post(
            "/predict_batch", json={"images": [{"pixels": each.tolist()} for each in images]}
        ).json()
        report = client.get(f"/models/{model.tag}/report")

    assert (listed["figures"], listed["report"]) == (None, None)
    assert listed["input"]["channels"] == 3
    assert (report.status_code, report.json()["code"]) == (404, "report_not_found")
    names = model.card.class_names
    answer = [one["probabilities"][name] for name in names]
    np.testing.assert_allclose(answer, expected[0], atol=1e-5)
    answers = [[each["probabilities"][name] for name in names] for each in batch["predictions"]]
    np.testing.assert_allclose(answers, expected, atol=1e-5)
