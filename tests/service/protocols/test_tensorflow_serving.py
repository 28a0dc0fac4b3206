"""TensorFlow Serving's API without a server: whatever the JSON, there is an answer or a named error."""

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
from pydantic import JsonValue

from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.http.not_found import Unrouted
from service.prediction.predictor import Predictor, Routes
from service.protocols import tensorflow_serving
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
    """Requests to an app in this process; an error that nobody names comes out of them."""

    def __init__(self, app: Routes) -> None:
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
    """The protocol without a server, with low limits."""
    app = Routes([*tensorflow_serving.ROUTES, Unrouted()])
    predictor = app.predictor = Predictor(LIMITS.model_copy(update={"models": digits_model.tag}))
    with closing(Client(app)) as client:
        yield client
        client.run(predictor.models.close())


def assert_refused(response: httpx.Response, status: int, code: str, message: str) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.json().keys() == {"error", "code"}
    assert message in response.json()["error"]


def with_pixel(value: JsonValue) -> list[JsonValue]:
    """An image whose last pixel is something else."""
    return [*ROWS[:27], [*ROWS[27][:27], value]]


def test_rows_are_answered_by_predictions_and_columns_by_outputs(client: Client) -> None:
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
def test_every_form_of_the_same_images_gets_the_same_probabilities(
    client: Client, body: JsonValue
) -> None:
    plain = client.predict({"instances": [ROWS, ENCODED]}).json()["predictions"]
    (answer,) = client.predict(body).json().values()

    np.testing.assert_allclose(answer, plain, atol=1e-5)


@pytest.mark.parametrize(
    "media_type", ["application/json", "application/x-www-form-urlencoded", None]
)
def test_the_body_is_json_whatever_its_content_type(client: Client, media_type: str | None) -> None:
    content = json.dumps({"instances": [ROWS]}).encode()

    assert client.request("POST", PREDICT, content, media_type).status_code == 200


BAD_BODIES: list[tuple[str, bytes | JsonValue, int, str, str]] = [
    ("nothing", b"", 400, "invalid_request", "Expected JSON in the body. Received: an empty body."),
    (
        "no JSON",
        b'{"instances": [',
        400,
        "invalid_json",
        "Expected JSON. Received: a body that is none",
    ),
    ("deep JSON", b'{"instances": ' + b"[" * 50_000, 400, "invalid_json", "Expected JSON."),
    ("NaN", b'{"instances": [[[NaN]]]}', 400, "invalid_json", "Expected JSON."),
    ("half a character", b'{"instances": ["\\ud800"]}', 400, "invalid_json", "Expected JSON."),
    ("a list", [ROWS], 400, "invalid_request", 'Expected a JSON object with either "instances"'),
    ("both", {"instances": [ROWS], "inputs": [ROWS]}, 400, "invalid_request", "Received: both."),
    ("neither", {}, 400, "invalid_request", "Received: an empty object."),
    (
        "other keys",
        {"instance": [ROWS]},
        400,
        "invalid_request",
        "Received: an object with the keys 'instance'.",
    ),
    (
        "a thousand keys",
        dict.fromkeys(f"{'k' * 1000}{number}" for number in range(100)),
        400,
        "invalid_request",
        "the keys " + f"'{'k' * 40}', " * 5 + "….",
    ),
    (
        "another signature",
        {"instances": [ROWS], "signature_name": "classify"},
        400,
        "invalid_request",
        "Expected \"serving_default\" as signature_name. Received: 'classify'.",
    ),
    (
        "no signature",
        {"instances": [ROWS], "signature_name": None},
        400,
        "invalid_request",
        "Received: null.",
    ),
    (
        "no list",
        {"instances": ENCODED},
        400,
        "invalid_request",
        "a list of images as instances. Received: an object",
    ),
    (
        "a text",
        {"inputs": "x"},
        400,
        "invalid_request",
        "Expected a list of images as inputs. Received: string.",
    ),
    (
        "no column",
        {"inputs": {"images": None}},
        400,
        "invalid_request",
        "as inputs.images. Received: null.",
    ),
    (
        "another column",
        {"inputs": {"x": [ROWS]}},
        400,
        "invalid_request",
        "an object with the keys 'x'.",
    ),
    (
        "no images",
        {"instances": []},
        400,
        "invalid_request",
        "Expected at least one image. Received: an empty batch.",
    ),
    (
        "nine images",
        {"instances": [0] * 9},
        413,
        "too_many_images",
        "Expected at most 8 images in one request",
    ),
    (
        "a long body",
        b" " * 200_001,
        413,
        "body_too_large",
        "Expected a body of at most 200,000 bytes",
    ),
]


@pytest.mark.parametrize(
    ("body", "status", "code", "message"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_BODIES]
)
def test_a_request_that_is_none_is_refused_with_its_reason(
    client: Client, body: bytes | JsonValue, status: int, code: str, message: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    assert_refused(client.request("POST", PREDICT, content), status, code, message)


BAD_IMAGES: list[tuple[str, JsonValue, int, str, str]] = [
    (
        "a number",
        7,
        400,
        "invalid_request",
        'or either as {"images": …} for an image. Received: number.',
    ),
    ("nothing", None, 400, "invalid_request", "Received: null."),
    ("a URL", "http://localhost/a.png", 400, "invalid_request", "Received: string."),
    (
        "another name",
        {"image": ROWS},
        400,
        "invalid_request",
        "Received: an object with the keys 'image'.",
    ),
    (
        "a name twice",
        {"images": {"images": ROWS}},
        400,
        "invalid_request",
        "an object with the keys 'images'.",
    ),
    (
        "a list of images",
        [ROWS],
        422,
        "invalid_pixels",
        "Expected 28 rows of 28 integers, 0 = background to 255",
    ),
    ("an empty list", [], 422, "invalid_pixels", "Received: 0 rows."),
    ("one row", ROWS[0], 422, "invalid_pixels", "Received: row 0 with number in place of numbers."),
    ("too few rows", ROWS[:27], 422, "invalid_pixels", "Received: 27 rows."),
    ("ragged rows", [*ROWS[:27], [0]], 422, "invalid_pixels", "Received: row 27 with 1 values."),
    (
        "channels",
        DIGIT[..., None].tolist(),
        422,
        "invalid_pixels",
        "Received: row 0 with array in column 0.",
    ),
    (
        "scaled pixels",
        (DIGIT / 255).tolist(),
        422,
        "invalid_pixels",
        "Received: row 0 with 0.0 in column 0.",
    ),
    (
        "a pixel too large",
        with_pixel(256),
        422,
        "invalid_pixels",
        "Received: row 27 with 256 in column 27.",
    ),
    (
        "a pixel too small",
        with_pixel(-1),
        422,
        "invalid_pixels",
        "Received: row 27 with -1 in column 27.",
    ),
    (
        "64 bits",
        with_pixel(2**64 - 1),
        422,
        "invalid_pixels",
        "with 18446744073709551615 in column 27.",
    ),
    (
        "beyond 64 bits",
        with_pixel(2**64),
        422,
        "invalid_pixels",
        "with 1.8446744073709552e+19 in column 27.",
    ),
    ("a text among pixels", with_pixel("0"), 422, "invalid_pixels", "with string in column 27."),
    (
        "a mask",
        (DIGIT > 0).tolist(),
        422,
        "invalid_pixels",
        "Received: row 0 with boolean in column 0.",
    ),
    ("no base64", {"b64": "a*b"}, 422, "invalid_image", "text that is not base64"),
    ("base64 of no text", {"b64": 7}, 422, "invalid_image", "base64 text, not number"),
    ("base64 of no picture", {"b64": "aGVsbG8="}, 422, "invalid_image", "text starting 'hello'"),
    (
        "a URL for base64",
        {"b64": "http://localhost/a.png"},
        422,
        "invalid_image",
        "Loupe fetches nothing",
    ),
]


@pytest.mark.parametrize(
    ("image", "status", "code", "message"),
    [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_IMAGES],
)
def test_one_bad_image_fails_the_request_and_is_named(
    client: Client, image: JsonValue, status: int, code: str, message: str
) -> None:
    forms: dict[str, JsonValue] = {
        "instances[2]": {"instances": [ROWS, ENCODED, image, ROWS, None]},
        "inputs[0]": {"inputs": [image]},
        "inputs.images[1]": {"inputs": {"images": [ENCODED, image]}},
    }
    for place, body in forms.items():
        response = client.predict(body)

        assert_refused(response, status, code, message)
        assert response.json()["error"].startswith(f"{place}: ")


@given(value=BODIES | st.dictionaries(KEYS, VALUES, max_size=3) | VALUES)
@example(value={"instances": [[[[[]]]]]})
@example(value={"inputs": {"images": {"images": [ROWS]}}})
def test_whatever_the_json_it_is_answered_or_refused_with_a_reason(
    client: Client, value: JsonValue
) -> None:
    response = client.predict(value)

    if response.status_code == 200:
        (answer,) = response.json().values()
        np.testing.assert_allclose(np.sum(answer, axis=1), np.ones(len(answer)), atol=1e-5)
    else:
        assert response.status_code in (400, 413, 422), response.text
        assert "Expected " in response.json()["error"]
        assert "Received: " in response.json()["error"]
        assert len(response.json()["error"]) < 500


@given(
    path=st.text("modelsversionslabelsdigits/:%._-~0é", max_size=40),
    method=st.sampled_from(["GET", "POST"]),
)
@example(path="/versions//metadata", method="GET")
@example(path="digits/", method="GET")
def test_whatever_the_path_it_is_refused_with_a_reason(
    client: Client, path: str, method: str
) -> None:
    response = client.request(method, f"/v1/models/{path}")

    refusals = [
        (404, "model_not_found"),
        (404, "route_not_found"),
        (405, "method_not_allowed"),
        (400, "invalid_request"),
    ]
    assert (response.status_code, response.json()["code"]) in refusals, response.text
