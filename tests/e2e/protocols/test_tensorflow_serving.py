"""TensorFlow Serving's API of a running service."""

import base64
import gzip
import json
from pathlib import Path

import httpx
import numpy as np
import pytest

from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec
from loupe.models.engines.engine import Engine
from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import serving
from tests.support.stores import copied

TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes
MODEL = "/v1/models/digits"


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def available(*versions: str) -> dict[str, object]:
    """Return the status of served versions, and KServe's `ready`."""
    fine = {"error_code": "OK", "error_message": ""}
    return {
        "name": "digits",
        "ready": True,
        "model_version_status": [
            {"version": each, "state": "AVAILABLE", "status": fine} for each in versions
        ],
    }


def assert_refused(response: httpx.Response, status: int, code: str, fact: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error", "code"}
    assert response.json()["code"] == code
    assert fact in response.json()["error"]


@pytest.mark.parametrize("count", [1, 5, 200])
def test_instances_give_rows_of_probabilities_in_their_order(
    client: httpx.Client, engine: Engine, count: int
) -> None:
    images = pictures.digits(count, seed=count)
    expected = engine.predict(images)

    response = client.post(f"{MODEL}:predict", json={"instances": images.tolist()})

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    np.testing.assert_allclose(response.json()["predictions"], expected, atol=TOLERANCE)
    column = client.post(f"{MODEL}:predict", json={"inputs": {"images": images.tolist()}})
    np.testing.assert_allclose(column.json()["outputs"], expected, atol=TOLERANCE)


def test_pictures_are_normalized_and_arrays_are_not(client: httpx.Client, engine: Engine) -> None:
    sheet = np.full((400, 300), 230, np.uint8)
    sheet[100:300, 140:170] = 20
    light = 255 - pictures.digits(1)[0]
    instances = [b64(pictures.png(sheet)), {"images": light.tolist()}]

    answer = client.post(f"{MODEL}:predict", json={"instances": instances}).json()["predictions"]

    np.testing.assert_allclose(
        answer,
        engine.predict(np.stack([normalize_pixels(sheet, ImageSpec("ink")), light])),
        atol=TOLERANCE,
    )


def test_versions_and_labels_select_their_models(
    client: httpx.Client, engine: Engine, digits_model: StoredModel
) -> None:
    images = pictures.digits(1)
    for path in (f"{MODEL}/versions/{digits_model.version}", f"{MODEL}/labels/latest"):
        answer = client.post(f"{path}:predict", json={"instances": images.tolist()})

        np.testing.assert_allclose(
            answer.json()["predictions"], engine.predict(images), atol=TOLERANCE
        )
        assert client.get(path).json() == available(digits_model.version)


@pytest.mark.parametrize(
    "path",
    [
        "birds",
        "digits/versions/7",
        "digits/labels/canary",
        "digits/versions/latest",
        "digits/labels/{}",
    ],
)
def test_model_that_is_not_served_is_refused_with_those_that_are(
    client: httpx.Client, digits_model: StoredModel, path: str
) -> None:
    """A label is not a version, and a version is not a label."""
    path = path.format(digits_model.version)

    for response in (
        client.post(f"/v1/models/{path}:predict", json={"instances": pictures.digits(1).tolist()}),
        client.get(f"/v1/models/{path}"),
        client.get(f"/v1/models/{path}/metadata"),
    ):
        assert_refused(response, 404, "model_not_found", digits_model.tag)


def test_status_lists_all_served_versions(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    for version in ("better", "newest", "unused"):
        copied(digits_model, store, f"digits:{version}")
    promote("digits:better")
    models = "digits:production,digits:newest"
    with (
        serving(
            tmp_path / "log", BENTOML_HOME=store, LOUPE_MODELS=models, LOUPE_MODEL="digits"
        ) as service,
        httpx.Client(base_url=service.url) as client,
    ):
        listed = client.get(MODEL).json()["model_version_status"]
        promoted = client.get(f"{MODEL}/labels/production").json()
        metadata = client.get(f"{MODEL}/labels/production/metadata").json()
        unused = client.get(f"{MODEL}/versions/unused")

    assert sorted(each["version"] for each in listed) == ["better", "newest"]
    assert promoted == available("better")
    assert metadata["model_spec"]["version"] == "better"
    assert_refused(unused, 404, "model_not_found", "unused")


def test_metadata_is_the_signature_of_the_model(
    client: httpx.Client, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    for model, classes in ((digits_model, "10"), (shapes_model, "3")):
        answer = client.get(f"/v1/models/{model.name}/metadata").json()

        assert answer["model_spec"] == {
            "name": model.name,
            "signature_name": "",
            "version": model.version,
        }
        signature = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        images, probabilities = signature["inputs"]["images"], signature["outputs"]["probabilities"]
        assert (images["dtype"], probabilities["dtype"]) == ("DT_UINT8", "DT_FLOAT")
        assert [side["size"] for side in images["tensor_shape"]["dim"]] == ["-1", "28", "28"]
        assert [side["size"] for side in probabilities["tensor_shape"]["dim"]] == ["-1", classes]


def test_compressed_request_is_answered_like_a_plain_one(client: httpx.Client) -> None:
    body = json.dumps({"instances": (pictures.digits(3) / 255)[..., None].tolist()}).encode()
    plain = client.post(f"{MODEL}:predict", content=body)
    headers = {"Content-Encoding": "gzip"}
    packed = client.post(f"{MODEL}:predict", content=gzip.compress(body), headers=headers)

    assert plain.status_code == 200
    assert packed.json() == plain.json()


def test_one_bad_instance_is_named_and_fails_the_request(client: httpx.Client) -> None:
    good = pictures.digits(1)[0].tolist()
    response = client.post(f"{MODEL}:predict", json={"instances": [good, b64(b"no image"), good]})

    assert_refused(response, 422, "invalid_image", "instances[1]: ")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("POST", "digits:classify", 404, "route_not_found"),
        ("POST", "digits:regress", 404, "route_not_found"),
        ("POST", "digits", 405, "method_not_allowed"),
        ("GET", "digits:predict", 405, "method_not_allowed"),
        ("GET", "digits/versions", 404, "route_not_found"),
    ],
)
def test_missing_routes_and_methods_are_refused(
    client: httpx.Client, method: str, path: str, status: int, code: str
) -> None:
    assert_refused(client.request(method, f"/v1/models/{path}"), status, code, path)


def test_timeout_is_kept_and_counted(client: httpx.Client) -> None:
    body = {"instances": pictures.digits(2).tolist()}
    late = client.post(f"{MODEL}:predict", json=body, headers={"X-Request-Timeout": "0.000001"})

    assert_refused(late, 504, "deadline_exceeded", "1e-06 s")
    metrics = client.get("/metrics").text
    assert 'model="digits",protocol="tensorflow-serving",status="504"' in metrics
