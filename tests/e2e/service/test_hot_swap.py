"""A model takes the place of another while the service answers."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loupe.models.promotion import promote
from loupe.models.store import StoredModel, remove_model
from tests.e2e.service.test_service import NPY, npy
from tests.support import pictures
from tests.support.programs import RunningService, run, serving, until
from tests.support.stores import copied, damage

DIGIT = pictures.png(pictures.digits(1)[0])
SWAPS = 10


def answers_with(service: RunningService, tag: str, **params: str) -> bool:
    return bool(
        httpx.post(f"{service.url}/predict", content=DIGIT, params=params).json().get("model")
        == tag
    )


def test_what_is_trained_or_promoted_later_is_served_without_a_restart(
    store: Path, tmp_path: Path, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    copied(digits_model, store, "digits:first")
    with serving(tmp_path / "log", BENTOML_HOME=store, LOUPE_FOLLOW_SECONDS="0.05") as service:
        assert answers_with(service, "digits:first")
        copied(digits_model, store, "digits:second")
        until(lambda: answers_with(service, "digits:second"))
        promote("digits:first")
        until(lambda: answers_with(service, "digits:first"))
        assert answers_with(service, "digits:first", model="digits:production")

        copied(shapes_model, store, "shapes:first")
        until(lambda: answers_with(service, "shapes:first", model="shapes"))
        assert answers_with(service, "digits:first")  # a newer name does not become the default


def test_several_versions_of_a_name_are_served_at_once_where_the_settings_say_so(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    for version in ("old", "good", "new"):
        copied(digits_model, store, f"digits:{version}")
    promote("digits:good")
    asked = "digits:production, digits:latest"
    with serving(
        tmp_path / "log", BENTOML_HOME=store, LOUPE_MODELS=asked, LOUPE_MODEL="digits:production"
    ) as service:
        assert answers_with(service, "digits:good")
        assert answers_with(service, "digits:good", model="digits")
        assert answers_with(service, "digits:new", model="digits:latest")
        assert answers_with(service, "digits:new", model="digits:new")
        assert (
            httpx.post(f"{service.url}/predict?model=digits:old", content=DIGIT).status_code == 404
        )


def test_name_means_the_newest_served_version(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    for version in ("old", "good", "new"):
        copied(digits_model, store, f"digits:{version}")
    promote("digits:new")
    with serving(
        tmp_path / "log", BENTOML_HOME=store, LOUPE_MODELS="digits:old, digits:good"
    ) as service:
        assert answers_with(service, "digits:old")
        assert answers_with(service, "digits:good", model="digits")
        served = httpx.get(f"{service.url}/models").json()
        assert served["default"] == "digits:old"
        assert [model["model"] for model in served["models"]] == ["digits:old", "digits:good"]
        assert (
            httpx.post(f"{service.url}/predict?model=digits:latest", content=DIGIT).status_code
            == 404
        )


def test_a_service_whose_first_model_is_not_there_does_not_start(
    store: Path, digits_model: StoredModel
) -> None:
    copied(digits_model, store, "digits:only")
    ended = run("serve", BENTOML_HOME=store, LOUPE_MODELS="digitz")

    assert ended.returncode == 1
    assert "There is no model 'digitz'." in ended.stderr


def test_a_newcomer_that_is_not_whole_leaves_the_old_one_serving_and_is_tried_again_when_it_is(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    copied(digits_model, store, "digits:old")
    with serving(tmp_path / "log", BENTOML_HOME=store, LOUPE_FOLLOW_SECONDS="0.05") as service:
        failed = 'loupe_model_swaps_total{model="digits",outcome="failed"}'
        assert f"{failed} 0.0" in httpx.get(f"{service.url}/metrics").text
        aside = tmp_path / "aside"
        aside.mkdir()
        broken = copied(digits_model, aside, "digits:new").folder
        whole = (broken / "model.onnx").read_bytes()
        damage(broken / "model.onnx")
        broken.rename(store / "models" / "digits" / "new")
        until(lambda: "not serving digits:new: " in service.log.read_text())
        assert answers_with(service, "digits:old")
        assert f"{failed} 1.0" in httpx.get(f"{service.url}/metrics").text

        (store / "models" / "digits" / "new" / "model.onnx").write_bytes(whole)
        until(lambda: answers_with(service, "digits:new"))
        assert (
            'loupe_model_swaps_total{model="digits",outcome="succeeded"} 1.0'
            in httpx.get(f"{service.url}/metrics").text
        )


def test_a_model_that_is_deleted_serves_on(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    copied(digits_model, store, "digits:only")
    with serving(tmp_path / "log", BENTOML_HOME=store, LOUPE_FOLLOW_SECONDS="0.05") as service:
        remove_model("digits:only")
        until(lambda: "not serving digits: " in service.log.read_text())

        assert answers_with(service, "digits:only")


@pytest.mark.timeout(120)
def test_under_load_no_request_is_lost_in_a_swap_and_no_answer_is_of_two_models(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    first, second = (
        copied(digits_model, store, "digits:first"),
        copied(digits_model, store, "digits:second"),
    )
    promote(first.tag, force=True)
    images = npy(pictures.digits(300))
    stop = threading.Event()
    with serving(tmp_path / "log", BENTOML_HOME=store, LOUPE_FOLLOW_SECONDS="0.05") as service:

        def load() -> Counter[tuple[int, str]]:
            seen: Counter[tuple[int, str]] = Counter()
            with httpx.Client(base_url=service.url, timeout=50) as client:
                while not stop.is_set():
                    response = client.post("/predict_batch", content=images, headers=NPY)
                    seen[response.status_code, response.json().get("model")] += 1
                    response = client.post("/predict", content=DIGIT)
                    seen[response.status_code, response.json().get("model")] += 1
            return seen

        with ThreadPoolExecutor(4) as pool:
            loads = [pool.submit(load) for _ in range(4)]
            for swap in range(SWAPS):
                wanted = (second, first)[swap % 2].tag
                promote(wanted, force=True)
                until(lambda: answers_with(service, wanted))  # noqa: B023 - called at once
            stop.set()
            seen = sum((each.result() for each in loads), Counter())

        assert set(seen) == {(200, first.tag), (200, second.tag)}
        metrics = httpx.get(f"{service.url}/metrics").text
        assert (
            f'loupe_model_swaps_total{{model="digits",outcome="succeeded"}} {float(SWAPS)}'
            in metrics
        )
        assert "Traceback" not in service.log.read_text()
