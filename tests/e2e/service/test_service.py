"""The service over HTTP, in a separate process."""

import asyncio
import base64
import io
import json
import os
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from loupe.images.normalize import normalize_pixels, split_pixels
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import RunningService, serving, until
from tests.support.stores import copied, damage
from train.data.datasets import load_dataset
from train.evaluate.robustness import handwriting

TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes
PNG = {"Content-Type": "image/png"}
JSON = {"Content-Type": "application/json"}
NPY = {"Content-Type": "application/octet-stream"}
DIGIT = pictures.digits(1, seed=7)[0]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def npy(
    array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], *, allow_pickle: bool = False
) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npy_header(shape: tuple[int, ...], dtype: str = "|u1", values: bytes = b"") -> bytes:
    """Return an `.npy` file with any header."""
    header = (
        f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117).encode()
        + b"\n"
    )
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values


def probabilities(answer: dict[str, object]) -> list[float]:
    found = answer["probabilities"]
    assert isinstance(found, dict)
    return list(found.values())


def assert_answers(answer: dict[str, object], expected: Float32Array, model: StoredModel) -> None:
    """Compare the whole answer to one image with the engine's output."""
    best = int(expected.argmax())
    np.testing.assert_allclose(probabilities(answer), expected, atol=TOLERANCE)
    assert answer["index"] == best
    assert answer["label"] == model.card.class_names[best]
    assert answer["confidence"] == pytest.approx(expected[best], abs=TOLERANCE)


@contextmanager
def begun(service: RunningService, route: str, headers: dict[str, str]) -> Iterator[HTTPConnection]:
    """Open a request whose head has been sent."""
    with closing(HTTPConnection(service.url.removeprefix("http://"), timeout=50)) as connection:
        connection.putrequest("POST", route)
        for name, value in {**PNG, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        yield connection


# One image


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"content": pictures.png(DIGIT), "headers": PNG}, id="image body"),
        pytest.param({"content": pictures.png(DIGIT)}, id="image body without a content type"),
        pytest.param({"files": {"image": ("a.png", pictures.png(DIGIT), "image/png")}}, id="form"),
        pytest.param({"json": {"image": b64(pictures.png(DIGIT))}}, id="base64 in JSON"),
        pytest.param(
            {"json": {"image": "data:image/png;base64," + b64(pictures.png(DIGIT))}},
            id="data URL in JSON",
        ),
        pytest.param({"json": {"pixels": DIGIT.tolist()}}, id="pixels in JSON"),
    ],
)
def test_every_encoding_of_an_image_gives_the_same_answer(
    client: httpx.Client, engine: Engine, digits_model: StoredModel, request_: dict[str, object]
) -> None:
    response = client.post("/predict", **request_)  # type: ignore[arg-type]

    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["model"] == digits_model.tag
    assert_answers(response.json(), engine.predict(DIGIT[None])[0], digits_model)


def test_answer_says_how_familiar_the_picture_is(client: httpx.Client, engine: Engine) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    images = np.stack([load_dataset("digits").test.images[0], noise])
    asked = {"min_familiarity": 0.02, "alpha": 0.05}
    known, foreign = (
        client.post("/predict", json={"pixels": image}, params=asked).json()
        for image in images.tolist()
    )
    expected = engine.run(images).familiarity

    assert known["familiarity"] == pytest.approx(expected[0], abs=1e-4)
    assert (known["unfamiliar"], known["abstained"]) == (False, False)
    assert known["label"] in known["prediction_set"]
    assert foreign["familiarity"] == pytest.approx(expected[1], abs=1e-4)
    assert (foreign["unfamiliar"], foreign["abstained"], foreign["label"]) == (True, True, None)
    metrics = client.get("/metrics").text
    assert 'loupe_familiarity_bucket{le="0.01",model="digits"}' in metrics


def test_minimum_familiarity_of_a_model_that_knows_none_is_refused(
    client: httpx.Client, shapes_model: StoredModel
) -> None:
    answer = client.post(
        "/predict",
        content=pictures.png(DIGIT),
        params={"model": shapes_model.tag, "min_familiarity": 0.1},
    )

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_photo_is_normalized(
    client: httpx.Client, engine: Engine, digits_model: StoredModel
) -> None:
    sheet = np.full((400, 300), 230, np.uint8)
    sheet[100:300, 140:170] = 20
    answer = client.post("/predict", content=pictures.png(sheet), headers=PNG).json()

    assert_answers(
        answer, engine.predict(normalize_pixels(sheet, ImageSpec("ink"))[None])[0], digits_model
    )


def test_probabilities_follow_the_classes_and_sum_to_one(
    client: httpx.Client, digits_model: StoredModel
) -> None:
    answer = client.post("/predict", json={"pixels": DIGIT.tolist()}).json()

    assert list(answer["probabilities"]) == list(digits_model.card.class_names)
    assert sum(probabilities(answer)) == pytest.approx(1, abs=1e-5)


# Many images


@pytest.mark.parametrize("count", [1, 2, 40])
def test_every_encoding_of_a_batch_gives_the_same_answers(
    client: httpx.Client, engine: Engine, digits_model: StoredModel, count: int
) -> None:
    images = pictures.digits(count, seed=count)
    files = [
        ("images", (f"{place}.png", pictures.png(image), "image/png"))
        for place, image in enumerate(images)
    ]
    mixed = [
        {"pixels": image.tolist()} if place % 2 else b64(pictures.png(image))
        for place, image in enumerate(images)
    ]
    expected = engine.predict(images)

    for response in (
        client.post("/predict_batch", content=npy(images), headers=NPY),
        client.post("/predict_batch", content=npy(np.asfortranarray(images)), headers=NPY),
        client.post("/predict_batch", files=files),
        client.post(
            "/predict_batch", json={"images": [b64(pictures.png(image)) for image in images]}
        ),
        client.post("/predict_batch", json={"images": mixed}),
    ):
        assert response.status_code == 200, response.text
        answers = response.json()["predictions"]
        assert len(answers) == count
        for answer, row in zip(answers, expected, strict=True):
            assert_answers(answer, row, digits_model)


def test_batch_of_one_equals_batch_of_many(client: httpx.Client) -> None:
    images = pictures.digits(30, seed=3)
    many = client.post("/predict_batch", content=npy(images), headers=NPY).json()["predictions"]
    for image, answer in zip(images[::7], many[::7], strict=True):
        alone = client.post("/predict", content=pictures.png(image), headers=PNG).json()

        assert alone["label"] == answer["label"]
        np.testing.assert_allclose(probabilities(alone), probabilities(answer), atol=TOLERANCE)


def test_request_larger_than_a_batch_keeps_its_order(client: httpx.Client, engine: Engine) -> None:
    images = pictures.digits(1000, seed=5)
    answers = client.post("/predict_batch", content=npy(images), headers=NPY).json()["predictions"]

    received = [probabilities(answer) for answer in answers]
    np.testing.assert_allclose(received, engine.predict(images), atol=TOLERANCE)


def test_invalid_image_in_a_batch_fails_alone(client: httpx.Client) -> None:
    good = b64(pictures.png(DIGIT))
    mixed = [
        good,
        b64(b"no image"),
        good,
        "http://example.com/a.png",
        {"pixels": [[1, 2]]},
        7,
        good,
    ]
    response = client.post("/predict_batch", json={"images": mixed})

    assert response.status_code == 200
    answers = response.json()["predictions"]
    codes = [answer.get("code") for answer in answers]
    assert codes == [
        None,
        "invalid_image",
        None,
        "invalid_image",
        "invalid_pixels",
        "invalid_image",
        None,
    ]
    assert "no image" in answers[1]["error"]
    assert "URL" in answers[3]["error"]
    assert answers[0] == answers[2] == answers[6]


# Ways to answer


def test_pictures_of_nothing_and_of_several_digits_get_no_label(client: httpx.Client) -> None:
    random = np.random.default_rng(0)
    blank = pictures.png(handwriting.blank("shading 60 %", random))
    several = pictures.png(handwriting.several(pictures.digits(2), random))

    answer = client.post("/predict", content=blank, headers=PNG).json()
    assert (answer["label"], answer["index"], answer["reason"]) == (None, None, "blank")
    assert_refused(
        client.post("/predict", content=several, headers=PNG), 422, "several_objects", "2"
    )


def test_each_of_several_digits_is_answered_with_its_box(
    client: httpx.Client, engine: Engine, digits_model: StoredModel
) -> None:
    page = pictures.strokes(3)
    symbols = split_pixels(page, digits_model.card.input)
    expected = engine.predict(np.stack([image for image, _ in symbols]))
    body = pictures.png(page)
    asked = {"split": "true"}

    answer = client.post("/predict", content=body, headers=PNG, params=asked).json()

    assert answer["model"] == digits_model.tag
    assert len(answer["predictions"]) == 3
    for found, row, (_, box) in zip(answer["predictions"], expected, symbols, strict=True):
        np.testing.assert_allclose(probabilities(found), row, atol=TOLERANCE)
        assert found["box"] == pytest.approx(box)
    images: list[object] = [b64(body), b64(pictures.png(np.full((60, 60), 240, np.uint8)))]
    images.append("no picture")
    images += [{"pixels": DIGIT.tolist()}, b64(pictures.png(np.pad(page, 300)))]
    batch = client.post("/predict_batch", json={"images": images}, params=asked).json()[
        "predictions"
    ]
    assert batch[0]["predictions"] == answer["predictions"]
    assert batch[1]["predictions"] == []
    assert batch[2]["code"] == "invalid_image"
    assert [each["box"] for each in batch[3]["predictions"]] == [[0, 0, 1, 1]]
    assert len(batch[4]["predictions"]) == 3
    array = client.post("/predict_batch", content=npy(DIGIT[None]), params=asked).json()
    assert array["predictions"] == [batch[3]]


def test_split_does_not_go_with_options_of_whole_pictures(client: httpx.Client) -> None:
    body = pictures.png(DIGIT)
    for query in ("normalize=off", "explain=seen"):
        refused = client.post(f"/predict?split=true&{query}", content=body, headers=PNG)
        assert_refused(refused, 400, "invalid_request", "split")
    refused = client.post(
        "/predict_batch?split=true",
        content=npy(DIGIT[None]),
        headers={"Accept": "application/x-npy"},
    )
    assert_refused(refused, 406, "not_acceptable", "split")


@pytest.mark.parametrize("explain", ["seen", "saliency", "nearest"])
def test_only_the_answer_to_one_image_explains_itself(client: httpx.Client, explain: str) -> None:
    refused = client.post(f"/predict_batch?explain={explain}", content=npy(DIGIT[None]))

    assert_refused(refused, 400, "invalid_request", "POST /predict")


def test_query_sets_options(
    client: httpx.Client, engine: Engine, shapes_model: StoredModel
) -> None:
    row = engine.predict(DIGIT[None])[0]
    asked: dict[str, str | int] = {"top_k": 2, "threshold": 1, "lang": "ja", "normalize": "off"}
    answer = client.post("/predict", content=pictures.png(DIGIT), headers=PNG, params=asked).json()

    best = [str(index) for index in np.argsort(-row)[:2]]
    assert list(answer["probabilities"]) == best
    assert (answer["label"], answer["index"], answer["abstained"]) == (None, None, True)
    refused = client.post(
        "/predict", content=pictures.png(DIGIT), params={"model": "shapes", "lang": "ja"}
    )
    assert_refused(refused, 400, "unknown_language", "'ja'")


def test_array_is_answered_by_an_array(
    client: httpx.Client, engine: Engine, digits_model: StoredModel
) -> None:
    images = pictures.digits(150, seed=9)
    response = client.post(
        "/predict_batch", content=npy(images), headers={**NPY, "Accept": "application/x-npy"}
    )
    answer = np.load(io.BytesIO(response.content))

    assert (response.headers["content-type"], answer.dtype) == (
        "application/x-npy",
        np.dtype(np.float32),
    )
    assert response.headers["x-loupe-model"] == digits_model.tag
    np.testing.assert_allclose(answer, engine.predict(images), atol=TOLERANCE)


def test_array_cannot_report_invalid_images(client: httpx.Client) -> None:
    response = client.post(
        "/predict_batch",
        json={"images": [b64(b"no image")]},
        headers={"Accept": "application/x-npy"},
    )

    assert_refused(response, 406, "not_acceptable", "1 images")


def test_short_timeout_gets_504(client: httpx.Client) -> None:
    body, headers = npy(np.zeros((4096, 28, 28), np.uint8)), {**NPY, "X-Request-Timeout": "0.001"}

    assert_refused(
        client.post("/predict_batch", content=body, headers=headers),
        504,
        "deadline_exceeded",
        "No answer within 0.001 s",
    )


# Concurrency


def test_late_pictures_do_not_delay_others(client: httpx.Client) -> None:
    bomb = pictures.encoded(
        Image.new("1", (7000, 7000)), "TIFF", compression="group4"
    )  # 2 KB of 49 million pixels
    late = client.post(
        "/predict_batch", json={"images": [b64(bomb)] * 400}, headers={"X-Request-Timeout": "0.5"}
    )
    assert_refused(late, 504, "deadline_exceeded", "No answer within 0.5 s")

    photo = pictures.encoded(Image.new("L", (280, 280), 255), "JPEG")
    assert (
        client.post("/predict", content=photo, headers={"X-Request-Timeout": "10"}).status_code
        == 200
    )


def test_concurrent_mixed_requests_get_their_own_answers(
    service: RunningService, engine: Engine, digits_model: StoredModel
) -> None:
    random = np.random.default_rng(1)
    requests = [
        pictures.digits(int(random.integers(1, 12)), seed=100 + place) for place in range(200)
    ]

    async def ask(
        client: httpx.AsyncClient, place: int, images: UInt8Array
    ) -> list[dict[str, object]]:
        if place % 3 == 0:
            return [
                (await client.post("/predict", content=pictures.png(images[0]), headers=PNG)).json()
            ]
        if place % 3 == 1:
            response = await client.post("/predict_batch", content=npy(images), headers=NPY)
        else:
            response = await client.post(
                "/predict_batch", json={"images": [b64(pictures.png(i)) for i in images]}
            )
        answers: list[dict[str, object]] = response.json()["predictions"]
        return answers

    async def ask_all() -> list[list[dict[str, object]]]:
        async with httpx.AsyncClient(base_url=service.url, timeout=50) as client:
            return await asyncio.gather(
                *(ask(client, place, images) for place, images in enumerate(requests))
            )

    for place, (images, answers) in enumerate(zip(requests, asyncio.run(ask_all()), strict=True)):
        assert len(answers) == (1 if place % 3 == 0 else len(images))
        for answer, row in zip(answers, engine.predict(images), strict=False):
            assert_answers(answer, row, digits_model)


def test_broken_image_among_concurrent_ones_fails_alone(service: RunningService) -> None:
    whole = pictures.png(np.full((300, 300), 90, np.uint8))
    bodies = [whole] * 15
    bodies.insert(7, whole[:-30])

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=50) as client:
            return await asyncio.gather(
                *(client.post("/predict", content=body, headers=PNG) for body in bodies)
            )

    responses = asyncio.run(ask_all())
    assert [response.status_code for response in responses] == [200] * 7 + [422] + [200] * 8
    assert responses[7].json()["code"] == "invalid_image"


# Refusals

ONE_PIXEL = pictures.png(np.zeros((1, 1), np.uint8))
ROWS = DIGIT.tolist()

BAD_REQUESTS = [
    ("empty body", {"content": b"", "headers": PNG}, 400, "invalid_request", "empty"),
    (
        "text as an image",
        {"content": b"hello", "headers": PNG},
        422,
        "invalid_image",
        "text starting 'hello'",
    ),
    (
        "truncated PNG",
        {"content": pictures.png(DIGIT)[:-40], "headers": PNG},
        422,
        "invalid_image",
        "PNG",
    ),
    (
        "PNG of 30,000 x 30,000",
        {"content": pictures.huge_png(30_000), "headers": PNG},
        422,
        "image_too_large",
        "30,000 × 30,000 = 900,000,000",
    ),
    (
        "GIF of 10,000 frames",
        {"content": pictures.long_gif(10_000)},
        422,
        "animated_image",
        "GIF",
    ),
    (
        "one pixel",
        {"content": ONE_PIXEL, "headers": PNG},
        422,
        "image_too_small",
        "1 × 1",
    ),
    (
        "a compressed PNG",
        {"content": ONE_PIXEL, "headers": {**PNG, "Content-Encoding": "br"}},
        415,
        "unsupported_media_type",
        "Content-Encoding 'br'",
    ),
    (
        "JSON that is none",
        {"content": b'{"image": ', "headers": JSON},
        400,
        "invalid_json",
        "JSON",
    ),
    ("JSON that is a list", {"json": [1]}, 400, "invalid_request", "object"),
    (
        "JSON with other keys",
        {"json": {"picture": "x"}},
        400,
        "invalid_request",
        "'picture'",
    ),
    (
        "JSON too deep",
        {"content": b"[" * 50_000, "headers": JSON},
        400,
        "invalid_json",
        "JSON",
    ),
    (
        "pixels of another shape",
        {"json": {"pixels": ROWS[:27]}},
        422,
        "invalid_pixels",
        "not 27",
    ),
    (
        "ragged pixels",
        {"json": {"pixels": [*ROWS[:27], [0]]}},
        422,
        "invalid_pixels",
        "27: ",
    ),
    (
        "pixels too large",
        {"json": {"pixels": [[256] * 28] * 28}},
        422,
        "invalid_pixels",
        "got 256",
    ),
    (
        "pixels too small",
        {"json": {"pixels": [[-1] * 28] * 28}},
        422,
        "invalid_pixels",
        "got -1",
    ),
    (
        "pixels beyond 64 bits",
        {"json": {"pixels": [[10**30] * 28] * 28}},
        422,
        "invalid_pixels",
        "got 1e+30",
    ),
    (
        "pixels that are fractions",
        {"json": {"pixels": [[0.5] * 28] * 28}},
        422,
        "invalid_pixels",
        "got 0.5",
    ),
    (
        "pixels that are texts",
        {"json": {"pixels": [["0"] * 28] * 28}},
        422,
        "invalid_pixels",
        "got '0'",
    ),
    (
        "pixels that are nothing",
        {"json": {"pixels": None}},
        422,
        "invalid_pixels",
        "got None",
    ),
    ("bad base64", {"json": {"image": "a*b"}}, 422, "invalid_image", "base64"),
    ("base64 of nothing", {"json": {"image": ""}}, 422, "invalid_image", "empty"),
    (
        "a number for an image",
        {"json": {"image": 7}},
        422,
        "invalid_image",
        "base64",
    ),
    (
        "URL in JSON",
        {"json": {"image": "http://localhost/a.png"}},
        422,
        "invalid_image",
        "URL",
    ),
    (
        "file URL in JSON",
        {"json": {"image": "file:///etc/passwd"}},
        422,
        "invalid_image",
        "URL",
    ),
    (
        "URL in a form",
        {"files": {"image": (None, "http://localhost/a.png")}},
        422,
        "invalid_image",
        "'http://localhost/a.png'",
    ),
    (
        "form without the field",
        {"files": {"x": b"1"}},
        400,
        "invalid_request",
        "'image'",
    ),
    (
        "form with two images",
        {"files": [("image", b"1"), ("image", b"2")]},
        400,
        "invalid_request",
        "/predict_batch",
    ),
    (
        "form without a boundary",
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        400,
        "invalid_request",
        "boundary",
    ),
    (
        "damaged form",
        {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "invalid_request",
        "form",
    ),
    (
        "another content type",
        {"content": b"a,b", "headers": {"Content-Type": "text/csv"}},
        415,
        "unsupported_media_type",
        "Content-Type 'text/csv'",
    ),
    (
        "unknown model",
        {"content": pictures.png(DIGIT), "params": {"model": "nowhere"}},
        404,
        "model_not_found",
        "digits:",
    ),
]

BAD_BATCHES = [
    ("empty body", {"content": b""}, 400, "invalid_request", "empty"),
    ("no images in JSON", {"json": {"images": []}}, 400, "invalid_request", "no images"),
    (
        "no images in .npy",
        {"content": npy(np.zeros((0, 28, 28), np.uint8))},
        400,
        "invalid_request",
        "no images",
    ),
    (
        "JSON with other keys",
        {"json": {"image": []}},
        400,
        "invalid_request",
        "'image'",
    ),
    ("JSON that is a text", {"json": "images"}, 400, "invalid_request", "object"),
    (
        "5,000 images in .npy",
        {"content": npy(np.zeros((5000, 28, 28), np.uint8))},
        413,
        "too_many_images",
        "LOUPE_MAX_IMAGES_PER_REQUEST",
    ),
    (
        "5,000 images in JSON",
        {"json": {"images": ["x"] * 5000}},
        413,
        "too_many_images",
        "5,000 images",
    ),
    (
        "5,000 images in a form",
        {"files": [("images", b"x")] * 5000},
        413,
        "too_many_images",
        "at most 4,096",
    ),
    (
        "another content type",
        {"content": b"x"},
        415,
        "unsupported_media_type",
        ".npy",
    ),
    (
        "npy of floats",
        {"content": npy(np.zeros((1, 28, 28)))},
        422,
        "invalid_pixels",
        "float64, shape (1, 28, 28)",
    ),
    (
        "npy of signed bytes",
        {"content": npy(np.zeros((1, 28, 28), np.int8))},
        422,
        "invalid_pixels",
        "int8, shape",
    ),
    ("npy of one image", {"content": npy(DIGIT)}, 422, "invalid_pixels", "uint8, shape (28, 28)"),
    (
        "npy of other sides",
        {"content": npy(np.zeros((2, 32, 32), np.uint8))},
        422,
        "invalid_pixels",
        "shape (2, 32, 32)",
    ),
    (
        "npy of objects",
        {"content": npy(np.array([{"a": 1}]), allow_pickle=True)},
        422,
        "invalid_pixels",
        "pickled Python objects",
    ),
    (
        "npy that promises a terabyte",
        {"content": npy_header((10**9, 28, 28), values=b"12")},
        422,
        "invalid_pixels",
        "784,000,000,000 bytes",
    ),
    (
        "npy of negative length",
        {"content": npy_header((-1, 28, -28), values=bytes(784))},
        422,
        "invalid_pixels",
        "npy",
    ),
    (
        "npy of endless nothing",
        {"content": npy_header((0, 2**70, 28))},
        422,
        "invalid_pixels",
        "npy",
    ),
    (
        "npy of values without size",
        {"content": npy_header((1, 28, 28), "|V0")},
        422,
        "invalid_pixels",
        "npy",
    ),
    (
        "npy cut in its header",
        {"content": npy(DIGIT[None])[:40]},
        422,
        "invalid_pixels",
        ".npy",
    ),
    (
        "npy with an open bracket",
        {"content": b"\x93NUMPY\x01\x00\x05\x00{'a'\n"},
        422,
        "invalid_pixels",
        ".npy",
    ),
    (
        "npy of an unknown version",
        {"content": b"\x93NUMPY\x09\x09" + bytes(64)},
        422,
        "invalid_pixels",
        ".npy",
    ),
]


def assert_refused(response: httpx.Response, status: int, code: str, text: str) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json().keys() == {"error", "code"}
    assert response.json()["code"] == code
    assert text in response.json()["error"]


@pytest.fixture
def still_well(client: httpx.Client) -> Iterator[None]:
    """Check after each test that a valid request is answered."""
    yield
    assert client.post("/predict", content=pictures.png(DIGIT), headers=PNG).status_code == 200


@pytest.mark.usefixtures("still_well")
@pytest.mark.parametrize(
    ("request_", "status", "code", "text"), [pytest.param(*r[1:], id=r[0]) for r in BAD_REQUESTS]
)
def test_invalid_image_is_refused(
    client: httpx.Client, request_: dict[str, object], status: int, code: str, text: str
) -> None:
    response = client.post("/predict", **request_)  # type: ignore[arg-type]
    assert_refused(response, status, code, text)


@pytest.mark.usefixtures("still_well")
@pytest.mark.parametrize(
    ("request_", "status", "code", "text"), [pytest.param(*r[1:], id=r[0]) for r in BAD_BATCHES]
)
def test_invalid_batch_is_refused(
    client: httpx.Client, request_: dict[str, object], status: int, code: str, text: str
) -> None:
    request_ = {"headers": NPY, **request_} if "content" in request_ else request_
    response = client.post("/predict_batch", **request_)  # type: ignore[arg-type]
    assert_refused(response, status, code, text)


@pytest.mark.usefixtures("still_well")
@pytest.mark.parametrize("route", ["/predict", "/predict_batch"])
def test_announced_long_body_is_refused_before_it_is_sent(
    service: RunningService, route: str
) -> None:
    with begun(service, route, {"Content-Length": "200000000"}) as connection:
        connection.send(b"\x89PNG")
        answer = connection.getresponse()

        assert answer.status == 413
        assert json.loads(answer.read())["code"] == "body_too_large"


@pytest.mark.usefixtures("still_well")
def test_long_chunked_body_is_refused_unread(
    service: RunningService,
) -> None:
    with begun(service, "/predict", {"Transfer-Encoding": "chunked"}) as connection:
        for _ in range(65):
            connection.send(b"100000\r\n" + bytes(2**20) + b"\r\n")
        answer = (
            connection.getresponse()
        )  # it comes without the other 135, and without the end of the body

        assert answer.status == 413
        assert json.loads(answer.read())["code"] == "body_too_large"


def test_long_body_is_refused_with_the_limit(client: httpx.Client) -> None:
    response = client.post("/predict", content=bytes(64 * 2**20 + 1), headers=PNG)

    text = "67,108,864 bytes (LOUPE_MAX_BODY_BYTES)"
    assert_refused(response, 413, "body_too_large", text)


# Models


def test_query_selects_the_model(
    client: httpx.Client, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    body = pictures.png(pictures.shapes().test.images[0])
    for wanted in (shapes_model.name, shapes_model.tag):
        answer = client.post("/predict", content=body, headers=PNG, params={"model": wanted}).json()
        assert answer["model"] == shapes_model.tag
        assert list(answer["probabilities"]) == ["across", "upright", "square"]
    answer = client.post("/predict", content=body, headers=PNG, params={"model": "digits"}).json()
    assert answer["model"] == digits_model.tag


def test_unserved_version_is_not_found(client: httpx.Client, digits_model: StoredModel) -> None:
    response = client.post(
        "/predict", content=pictures.png(DIGIT), params={"model": "digits:0000000"}
    )

    assert_refused(response, 404, "model_not_found", "There is no model 'digits:0000000'.")
    assert digits_model.tag in response.json()["error"]


def test_name_and_label_mean_the_production_version(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    for version in ("better", "newest"):
        copied(digits_model, store, f"digits:{version}")
    promote("digits:better")
    with serving(tmp_path / "log", BENTOML_HOME=store) as service:
        url, body = f"{service.url}/predict", pictures.png(DIGIT)
        for params in (
            {},
            {"model": "digits"},
            {"model": "digits:production"},
            {"model": "digits:better"},
        ):
            assert httpx.post(url, content=body, params=params).json()["model"] == "digits:better"
        refused = httpx.post(url, content=body, params={"model": "digits:newest"})

    assert_refused(
        refused,
        404,
        "model_not_found",
        "There is no model 'digits:newest'. There are: digits:better.",
    )


# Around the predictions


def test_models_are_listed_with_figures_and_report(
    client: httpx.Client, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    listed = client.get("/models").json()

    assert listed["default"] == digits_model.tag
    models = {model["model"]: model for model in listed["models"]}
    assert models.keys() >= {digits_model.tag, shapes_model.tag}
    digits = models[digits_model.tag]
    assert {"digits", "digits:latest"} <= set(digits["aliases"])
    assert digits["figures"]["accuracy"] == digits_model.card.measured.accuracy
    page = client.get(digits["report"])
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert digits_model.tag in page.text
    assert_refused(
        client.get("/models/birds/report"), 404, "model_not_found", "There is no model 'birds'."
    )


def test_range_requests_get_the_whole_report(client: httpx.Client) -> None:
    for part in ("bytes=0-3", "bytes=99999999-", "bytes=nonsense"):
        answer = client.get("/models/digits/report", headers={"Range": part})

        assert (answer.status_code, answer.text[-8:]) == (200, "</html>\n")


@pytest.mark.parametrize("route", ["/livez", "/readyz"])
def test_health_checks_succeed(client: httpx.Client, route: str) -> None:
    assert client.get(route).status_code == 200


def test_metrics_have_batch_sizes(client: httpx.Client) -> None:
    client.post("/predict_batch", content=npy(pictures.digits(33)), headers=NPY)
    metrics = client.get("/metrics").text

    assert 'loupe_batch_size_bucket{le="64.0",model="digits"}' in metrics
    assert 'loupe_batch_size_count{model="shapes"}' in metrics


def test_metrics_count_requests_and_answers(
    client: httpx.Client, digits_model: StoredModel
) -> None:
    client.post(
        "/predict_batch", content=npy(pictures.digits(33)), headers=NPY, params={"threshold": 1}
    )
    client.post("/predict", content=b"no image", headers=PNG)
    metrics = client.get("/metrics").text

    assert 'loupe_requests_total{key="-",model="digits",protocol="loupe",status="200"}' in metrics
    assert 'loupe_requests_total{key="-",model="digits",protocol="loupe",status="422"}' in metrics
    assert 'loupe_rejected_total{code="invalid_image"}' in metrics
    assert f'loupe_model_served{{model="digits",version="{digits_model.version}"}} 1.0' in metrics
    assert 'loupe_images_in_flight{model="digits"} 0.0' in metrics
    counted = {
        line.split("{")[0]: 0.0
        for line in metrics.splitlines()
        if line.startswith(("loupe_pred", "loupe_conf"))
    }
    assert {
        "loupe_predictions_total",
        "loupe_confidence_bucket",
        "loupe_confidence_sum",
    } <= counted.keys()
    for phase in ("decode", "queue", "compute", "encode"):
        assert f'loupe_seconds_count{{phase="{phase}"}} 0.0' not in metrics


# Limits that are settings, and the end


def is_ready(service: RunningService) -> bool:
    """Return whether the readiness check succeeds."""
    try:
        return httpx.get(f"{service.url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_stop_signal_finishes_requests_in_flight_and_exits_with_zero(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    with serving(tmp_path / "log", LOUPE_MODEL=digits_model.tag) as service:
        body = pictures.png(DIGIT)
        with begun(service, "/predict", {"Content-Length": str(len(body))}) as connection:
            connection.send(body[:20])
            httpx.get(
                f"{service.url}/livez"
            )  # what came before it on another connection has been read
            os.kill(service.process.pid, signal.SIGTERM)
            until(lambda: not is_ready(service))
            connection.send(body[20:])

            assert connection.getresponse().status == 200
        assert service.process.wait(30) == 0
        assert "Traceback" not in service.log.read_text()


def test_request_past_the_shutdown_timeout_gets_503(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    with serving(
        tmp_path / "log", LOUPE_MODEL=digits_model.tag, LOUPE_SHUTDOWN_TIMEOUT_SECONDS=1
    ) as service:
        with begun(service, "/predict", {"Content-Length": "1000"}) as connection:
            httpx.get(f"{service.url}/livez")
            os.kill(service.process.pid, signal.SIGTERM)
            answer = connection.getresponse()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert json.loads(answer.read())["code"] == "shutting_down"
        assert service.process.wait(30) == 0
        assert "Traceback" not in service.log.read_text()


@pytest.fixture(scope="module")
def narrow_service(
    digits_model: StoredModel, shapes_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service with low limits, and with a store whose shapes model is corrupt."""
    home = tmp_path_factory.mktemp("store")
    copied(digits_model, home)
    damage(copied(shapes_model, home).folder / "model.onnx")
    limits = {
        "LOUPE_MAX_QUEUED_IMAGES": 4,
        "LOUPE_MAX_IMAGES_PER_REQUEST": 8,
        "LOUPE_MAX_BODY_BYTES": 9000,
        "LOUPE_MAX_IMAGE_PIXELS": 10_000,
    }
    with serving(home / "log", BENTOML_HOME=home, LOUPE_MODEL="digits", **limits) as service:
        yield service


def test_limits_follow_the_settings(narrow_service: RunningService) -> None:
    predict, batch = f"{narrow_service.url}/predict", f"{narrow_service.url}/predict_batch"
    many = {images: npy(np.zeros((images, 28, 28), np.uint8)) for images in (4, 5)}

    assert httpx.post(batch, content=many[4], headers=NPY, timeout=50).status_code == 200
    assert_refused(
        httpx.post(batch, content=many[5], headers=NPY), 413, "too_many_images", "at most 4 "
    )
    assert_refused(httpx.post(predict, content=bytes(9001)), 413, "body_too_large", "9,000 bytes")
    wide = pictures.encoded(Image.new("1", (101, 100)), "PNG")
    assert_refused(httpx.post(predict, content=wide), 422, "image_too_large", "10,000")


def test_damaged_model_is_not_served_and_others_are(
    narrow_service: RunningService, shapes_model: StoredModel
) -> None:
    body = pictures.png(DIGIT)
    assert (
        httpx.post(f"{narrow_service.url}/predict", content=body)
        .json()["model"]
        .startswith("digits:")
    )

    refused = httpx.post(f"{narrow_service.url}/predict", content=body, params={"model": "shapes"})
    assert_refused(
        refused, 404, "model_not_found", "There is no model 'shapes'. There are: digits:"
    )
    assert f"not serving {shapes_model.tag}: " in narrow_service.log.read_text()


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Origin": "https://evil.example"}, "origin_forbidden"),
        ({"Sec-Fetch-Site": "cross-site"}, "origin_forbidden"),
        ({"Host": "evil.example"}, "host_forbidden"),
    ],
)
def test_web_page_cannot_call_a_service_without_keys(
    client: httpx.Client, headers: dict[str, str], code: str
) -> None:
    response = client.post("/jobs", content=b"PK", headers={"Content-Type": "a/b", **headers})

    assert (response.status_code, response.json()["code"]) == (403, code)
    assert client.get("/livez", headers=headers).status_code == 200


def test_source_of_a_job_needs_a_type(client: httpx.Client) -> None:
    response = client.post("/jobs", content=b"PK")

    assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
