"""TensorFlow Serving's API without a server."""

import asyncio
import base64
import json
from collections.abc import Coroutine, Iterator
from contextlib import closing
from typing import TypeVar

import httpx
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import JsonValue
from starlette.applications import Starlette

from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app
from service.prediction.predictor import Predictor
from tests.support import pictures

T = TypeVar("T")

DIGIT = pictures.digits(1, seed=7)[0]
ROWS = DIGIT.tolist()
ENCODED: JsonValue = {"b64": base64.b64encode(pictures.png(DIGIT)).decode()}
PREDICT = "/v1/models/digits:predict"
LIMITS = Settings(model="digits", max_images_per_request=8, max_body_bytes=200_000)

KEYS = st.sampled_from(
    ["instances", "inputs", "images", "b64", "signature_name", "serving_default"]
)
LEAVES = (
    st.sampled_from(
        [
            ROWS,
            ENCODED,
            [0] * 28,
            "serving_default",
            "http://localhost/a.png",
            2**63,
            2**64,
            256,
            -1,
        ]
    )
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)
IMAGES = st.sampled_from([ROWS, ENCODED, {"images": ROWS}])
BODIES = st.builds(
    lambda key, images: {key: images},
    st.sampled_from(["instances", "inputs"]),
    st.lists(IMAGES | VALUES, max_size=2),
)


class Client:
    """A client of the app in this process; unexpected errors are raised in the test."""

    def __init__(self, app: Starlette) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://loupe"
        )
        self._loop = asyncio.new_event_loop()

    def request(
        self, method: str, path: str, content: bytes = b"", media_type: str | None = None
    ) -> httpx.Response:
        headers = {} if media_type is None else {"Content-Type": media_type}
        return self.run(self._client.request(method, path, content=content, headers=headers))

    def predict(self, body: JsonValue) -> httpx.Response:
        return self.request("POST", PREDICT, json.dumps(body).encode(), "application/json")

    def run(self, work: Coroutine[None, None, T]) -> T:
        return self._loop.run_until_complete(work)

    def close(self) -> None:
        self.run(self._client.aclose())
        self._loop.close()


@pytest.fixture(scope="module")
def client(digits_model: StoredModel) -> Iterator[Client]:
    """Return the protocol without a server, with low limits."""
    app = create_app(LIMITS.model_copy(update={"models": digits_model.tag}))
    predictor: Predictor = app.state.predictor
    predictor.models.load()
    with closing(Client(app)) as client:
        yield client
        client.run(predictor.models.close())


def assert_refused(response: httpx.Response, status: int, code: str, fact: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json().keys() == {"error", "code"}
    assert fact in response.json()["error"]
    assert len(response.json()["error"]) < 400


def with_pixel(value: JsonValue) -> list[JsonValue]:
    """Return an image with another value as its last pixel."""
    return [*ROWS[:27], [*ROWS[27][:27], value]]


def test_instances_give_predictions_and_inputs_give_outputs(client: Client) -> None:
    rows = client.predict({"instances": [ROWS, ENCODED]}).json()
    column = client.predict({"inputs": [ROWS, ENCODED]}).json()

    assert rows.keys() == {"predictions"}
    assert column == {"outputs": rows["predictions"]}
    np.testing.assert_allclose(np.sum(column["outputs"], axis=1), [1, 1], atol=1e-5)


@pytest.mark.parametrize(
    "body",
    [
        {"instances": [{"images": ROWS}, {"images": ENCODED}]},
        {"instances": [ROWS, {"images": ENCODED}], "signature_name": "serving_default"},
        {"inputs": {"images": [ROWS, ENCODED]}, "signature_name": ""},
        {
            "inputs": [{"images": ROWS}, ENCODED],
            "context": "is ignored, as TensorFlow Serving does",
        },
    ],
    ids=["named rows", "rows of both kinds", "named column", "column of both kinds"],
)
def test_every_form_of_an_image_gives_the_same_probabilities(
    client: Client, body: JsonValue
) -> None:
    plain = client.predict({"instances": [ROWS, ENCODED]}).json()["predictions"]
    (answer,) = client.predict(body).json().values()

    np.testing.assert_allclose(answer, plain, atol=1e-5)


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/x-www-form-urlencoded", None]
)
def test_body_is_json_whatever_its_content_type(client: Client, media_type: str | None) -> None:
    content = json.dumps({"instances": [ROWS]}).encode()

    assert client.request("POST", PREDICT, content, media_type).status_code == 200


BAD_BODIES: list[tuple[str, bytes | JsonValue, int, str, str]] = [
    ("empty body", b"", 400, "invalid_request", "empty"),
    ("truncated JSON", b'{"instances": [', 400, "invalid_json", "JSON"),
    ("deep JSON", b'{"instances": ' + b"[" * 50_000, 400, "invalid_json", "JSON"),
    ("NaN", b'{"instances": [[[NaN]]]}', 400, "invalid_json", "JSON"),
    ("half a character", b'{"instances": ["\\ud800"]}', 400, "invalid_json", "JSON"),
    ("list", [ROWS], 400, "invalid_request", "object"),
    ("both forms", {"instances": [ROWS], "inputs": [ROWS]}, 400, "invalid_request", "'inputs'"),
    ("neither form", {}, 400, "invalid_request", "'instances'"),
    ("other field", {"instance": [ROWS]}, 400, "invalid_request", "'instances'"),
    (
        "many long fields",
        dict.fromkeys(f"{'k' * 1000}{number}" for number in range(100)),
        400,
        "invalid_request",
        "'instances'",
    ),
    (
        "other signature",
        {"instances": [ROWS], "signature_name": "classify"},
        400,
        "invalid_request",
        "signature_name",
    ),
    (
        "null signature",
        {"instances": [ROWS], "signature_name": None},
        400,
        "invalid_request",
        "signature_name",
    ),
    ("object as instances", {"instances": ENCODED}, 400, "invalid_request", "instances"),
    ("null as instances", {"instances": None}, 400, "invalid_request", "instances"),
    ("text as inputs", {"inputs": "x"}, 400, "invalid_request", "inputs"),
    ("null as column", {"inputs": {"images": None}}, 400, "invalid_request", "inputs"),
    ("other column", {"inputs": {"x": [ROWS]}}, 400, "invalid_request", "inputs"),
    ("no images", {"instances": []}, 400, "invalid_request", "no images"),
    ("nine images", {"instances": [0] * 9}, 413, "too_many_images", "at most 8"),
    ("long body", b" " * 200_001, 413, "body_too_large", "200,000 bytes"),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "fact"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_BODIES]
)
def test_malformed_request_is_refused_with_the_reason(
    client: Client, body: bytes | JsonValue, status: int, code: str, fact: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    assert_refused(client.request("POST", PREDICT, content), status, code, fact)


NO_NUMBER = ("invalid_pixels", "27.0")
BAD_IMAGES: list[tuple[str, JsonValue, int, str, str]] = [
    ("number", 7, 400, "invalid_request", "got 7"),
    ("null", None, 400, "invalid_request", "got None"),
    ("URL", "http://localhost/a.png", 400, "invalid_request", "got 'http"),
    ("other name", {"image": ROWS}, 400, "invalid_request", "'image'"),
    ("nested name", {"images": {"images": ROWS}}, 400, "invalid_request", "'images'"),
    ("list of images", [ROWS], 422, "invalid_pixels", "28 rows of 28"),
    ("empty list", [], 422, "invalid_pixels", "has 0"),
    ("one row", ROWS[0], 422, "invalid_pixels", "Row 0 is 0"),
    ("too few rows", ROWS[:27], 422, "invalid_pixels", "has 27"),
    ("ragged rows", [*ROWS[:27], [0]], 422, "invalid_pixels", "Row 27 has 1"),
    ("three channels", [[[0] * 3] * 28] * 28, 422, "invalid_pixels", "0.0"),
    ("ragged channels", with_pixel([0]), 422, "invalid_pixels", "27.27"),
    ("no channels", [[[]] * 28] * 28, 422, "invalid_pixels", "0.0"),
    ("783 pixels", [0] * 783, 422, "invalid_pixels", "783"),
    ("pixel too large", with_pixel(256), 422, "invalid_pixels", "27.27"),
    ("pixel too small", with_pixel(-1), 422, "invalid_pixels", "got -1"),
    ("64 bits", with_pixel(2**64 - 1), 422, "invalid_pixels", "got 1.8446744073709552e+19"),
    ("beyond 64 bits", with_pixel(2**64), 422, "invalid_pixels", "27.27"),
    ("beyond 32 bits", with_pixel(1e300), 422, "invalid_pixels", "got 1e+300"),
    ("text among pixels", with_pixel("0"), 422, "invalid_pixels", "27.27"),
    ("null among fractions", [*(DIGIT / 255).tolist()[:27], [None] * 28], 422, *NO_NUMBER),
    ("from -1 to 1", (DIGIT / 127.5 - 1).tolist(), 422, "invalid_pixels", "got -1.0"),
    ("standardized", (DIGIT / 100 - 0.4).tolist(), 422, "invalid_pixels", "got -0.4"),
    ("other scale", (DIGIT / 100).tolist(), 422, "invalid_pixels", "up to 2.5"),
    ("16 bits", (DIGIT * 257.0).tolist(), 422, "invalid_pixels", "255"),
    ("mask", (DIGIT > 0).tolist(), 422, "invalid_pixels", "got False"),
    ("invalid base64", {"b64": "a*b"}, 422, "invalid_image", "base64"),
    ("number as base64", {"b64": 7}, 422, "invalid_image", "base64"),
    ("base64 of a text", {"b64": "aGVsbG8="}, 422, "invalid_image", "hello"),
    ("URL as base64", {"b64": "http://localhost/a.png"}, 422, "invalid_image", "URL"),
]


@pytest.mark.parametrize(
    ("image", "status", "code", "fact"),
    [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_IMAGES],
)
def test_one_bad_image_fails_the_request_and_is_named(
    client: Client, image: JsonValue, status: int, code: str, fact: str
) -> None:
    requests: dict[str, JsonValue] = {
        "instances[2]": {"instances": [ROWS, ENCODED, image, ROWS, None]},
        "inputs[0]": {"inputs": [image]},
        "inputs[1]": {"inputs": {"images": [ENCODED, image]}},
    }
    for index, body in requests.items():
        response = client.predict(body)

        assert_refused(response, status, code, fact)
        assert response.json()["error"].startswith(f"{index}: ")


KERAS: dict[str, NDArray[np.generic]] = {  # arrays of tutorials that all mean `DIGIT`
    "28×28×1": DIGIT[..., None],
    "flat": DIGIT.ravel(),
    "float 0..255": DIGIT.astype(np.float32),
    "0..1": DIGIT / 255,
    "0..1 in 28×28×1": DIGIT[..., None].astype(np.float32) / np.float32(255),
    "0..1 flat": DIGIT.ravel() / 255,
    "half precision": (DIGIT / 255).astype(np.float16),
    "three decimals": np.round(DIGIT / 255, 3),
    "blurred 0..255": DIGIT + 0.3,
    "beyond 1 by rounding": DIGIT / 255 * 1.001,
}


@pytest.mark.parametrize("name", KERAS)
def test_arrays_of_keras_tutorials_are_read(client: Client, name: str) -> None:
    image: JsonValue = np.minimum(KERAS[name], 255).tolist()
    named: JsonValue = {"images": image}
    plain = client.predict({"instances": [ROWS] * 3}).json()["predictions"]

    rows = client.predict({"instances": [image, named, ROWS], "signature_name": "serving_default"})
    column = client.predict({"inputs": {"images": [image, image, ROWS]}})

    np.testing.assert_allclose(rows.json()["predictions"], plain, atol=1e-5)
    np.testing.assert_allclose(column.json()["outputs"], plain, atol=1e-5)


@pytest.mark.parametrize("kind", [int, float])
def test_image_of_zeros_and_ones_is_black_and_white(client: Client, kind: type) -> None:
    mask = (DIGIT > 100).astype(np.uint8)
    images = [mask.astype(kind).tolist(), (mask * 255).tolist()]

    same, meant = client.predict({"instances": images}).json()["predictions"]

    np.testing.assert_allclose(same, meant, atol=1e-5)


def test_each_image_has_its_own_scale(client: Client) -> None:
    images = [(DIGIT / 255).tolist(), ROWS, (0.0 * DIGIT).tolist(), ROWS]

    scaled, full, empty, again = client.predict({"instances": images}).json()["predictions"]

    np.testing.assert_allclose([scaled, again], [full, full], atol=1e-5)
    assert empty != pytest.approx(full, abs=0.01)


def test_names_of_the_models_are_listed_as_kserve_does(
    client: Client, digits_model: StoredModel
) -> None:
    assert client.request("GET", "/v1/models").json() == {"models": [digits_model.name]}


@given(value=BODIES | st.dictionaries(KEYS, VALUES, max_size=3) | VALUES)
@example(value={"instances": [[[[[]]]]]})
@example(value={"inputs": {"images": {"images": [ROWS]}}})
def test_any_json_is_answered_or_refused(client: Client, value: JsonValue) -> None:
    response = client.predict(value)

    if response.status_code == 200:
        (answer,) = response.json().values()
        np.testing.assert_allclose(np.sum(answer, axis=1), np.ones(len(answer)), atol=1e-5)
    else:
        assert response.status_code in (400, 413, 422), response.text
        assert response.json().keys() == {"error", "code"}
        assert len(response.json()["error"]) < 500


@given(
    path=st.text("modelsversionslabelsdigits/:%._-~0é", max_size=40),
    method=st.sampled_from(["GET", "POST"]),
)
@example(path="/versions//metadata", method="GET")
@example(path="digits/", method="GET")
def test_any_other_path_is_refused(client: Client, path: str, method: str) -> None:
    response = client.request(method, f"/v1/models/{path}")

    refusals = [
        (404, "model_not_found"),
        (404, "route_not_found"),
        (405, "method_not_allowed"),
        (400, "invalid_request"),
    ]
    assert (response.status_code, response.json()["code"]) in refusals, response.text
