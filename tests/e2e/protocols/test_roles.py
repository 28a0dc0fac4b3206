"""Roles of API keys over HTTP and gRPC, and promotion over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.e2e.protocols.conftest import BothProtocols, serving_both
from tests.support import pictures
from tests.support.programs import serving
from tests.support.stores import copied

DIGITS = pictures.digits(1)
KEYS = {name: f"the-key-of-{name}-0001" for name in ("web", "batch", "ops", "old")}
ENTRIES = "web/predict:{web},batch/jobs:{batch},ops/admin:{ops},old:{old}".format(**KEYS)
GUARDED = {
    "predict": ("POST", "/predict"),
    "batch": ("POST", "/predict_batch"),
    "v1": ("POST", "/v1/models/digits:predict"),
    "v2": ("POST", "/v2/models/digits/infer"),
    "jobs": ("GET", "/jobs"),
    "job": ("GET", "/jobs/3f0c5b1d9a2e/results"),
    "submit": ("POST", "/jobs"),
    "promote": ("POST", "/models/digits:none/promote"),
    "rollback": ("POST", "/models/digits:none/rollback"),
}
PREDICTING, JOBS = {"predict", "batch", "v1", "v2"}, {"jobs", "job", "submit"}


@pytest.fixture(scope="module")
def guarded(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BothProtocols]:
    """Run a service with a key for each role, and one without roles."""
    folder = tmp_path_factory.mktemp("roles")
    settings = {"LOUPE_API_KEYS": ENTRIES, "LOUPE_DATA_DIR": folder / "data"}
    with serving_both(folder / "log", LOUPE_MODEL=digits_model.tag, **settings) as running:
        yield running


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("web", PREDICTING),
        ("batch", JOBS),
        ("old", PREDICTING | JOBS),
        ("ops", GUARDED.keys()),
    ],
)
def test_key_may_call_what_its_roles_allow(
    guarded: BothProtocols, name: str, allowed: set[str]
) -> None:
    with httpx.Client(base_url=guarded.service.url, headers={"X-API-Key": KEYS[name]}) as client:
        answers = {call: client.request(*asked) for call, asked in GUARDED.items()}
        rights = client.get("/models").json()["rights"]

    refused = {call for call, answer in answers.items() if answer.status_code == 403}
    assert refused == GUARDED.keys() - allowed
    assert {answers[call].json()["code"] for call in refused} <= {"role_needed"}
    assert ("promote" in rights) == (name == "ops")


def test_key_of_jobs_may_not_predict_over_grpc(guarded: BothProtocols) -> None:
    tensor = triton.InferInput("images", DIGITS.shape, "UINT8")
    tensor.set_data_from_numpy(DIGITS)
    with triton.InferenceServerClient(guarded.address) as client:
        client.infer("digits", [tensor], headers={"x-api-key": KEYS["web"]})
        client.get_model_metadata("digits", headers={"x-api-key": KEYS["batch"]})
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
            client.infer("digits", [tensor], headers={"x-api-key": KEYS["batch"]})


def test_better_version_is_promoted_served_and_rolled_back(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    first = copied(digits_model, store, "digits:first")
    promote(first.tag)
    second = copied(digits_model, store, "digits:second")
    better = second.card.measured.model_copy(update={"accuracy": 0.999})
    second.card.model_copy(update={"figures": better}).save(second.folder)
    settings = {"BENTOML_HOME": store, "LOUPE_API_KEYS": ENTRIES, "LOUPE_FOLLOW_SECONDS": "60"}
    with (
        serving(tmp_path / "log", **settings) as service,
        httpx.Client(base_url=service.url, headers={"X-API-Key": KEYS["ops"]}) as client,
    ):
        listed = client.get("/models/digits/versions").json()["versions"]
        assert [(each["model"], each["labels"], each["served"]) for each in listed] == [
            ("digits:second", [], False),
            ("digits:first", ["production"], True),
        ]
        moved = client.post("/models/digits:second/promote").json()["promotion"]
        assert (moved["from"], moved["to"]) == ("digits:first", "digits:second")
        assert client.get("/models").json()["default"] == "digits:second"
        refused = client.post("/models/digits:first/promote")
        assert (refused.status_code, refused.json()["code"]) == (409, "not_better")
        forced = client.post("/models/digits:first/promote", params={"force": True})
        assert forced.json()["promotion"]["forced"]
        client.post("/models/digits/rollback")
        assert client.get("/models").json()["default"] == "digits:second"
        history = client.get("/models/digits/versions").json()["promotions"]
        assert [each["kind"] for each in history] == ["rollback", "promote", "promote", "promote"]


def test_nobody_may_promote_without_keys(
    tmp_path: Path, store: Path, digits_model: StoredModel
) -> None:
    copied(digits_model, store, "digits:first")
    with serving(tmp_path / "log", BENTOML_HOME=store) as service:
        refused = httpx.post(f"{service.url}/models/digits:first/promote")
        assert (refused.status_code, refused.json()["code"]) == (403, "role_needed")
        assert "promote" not in httpx.get(f"{service.url}/models").json()["rights"]
