"""The Open Inference Protocol over REST, with `tritonclient` against a running service."""

import asyncio
import base64
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import RunningService, serving
from tests.support.stores import copied

TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes
OUTPUTS = ("probabilities", "label", "index")
DIGITS = pictures.digits(5, seed=11)


@pytest.fixture(scope="module")
def triton_client(service: RunningService) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        yield client


def tensor(images: UInt8Array, *, binary: bool = True) -> triton.InferInput:
    """Return pixels as an input."""
    return triton.InferInput("images", list(images.shape), "UINT8").set_data_from_numpy(
        images, binary_data=binary
    )


def files(contents: list[bytes], *, binary: bool = True) -> triton.InferInput:
    """Return picture files as an input."""
    array = np.array(contents, np.object_)
    return triton.InferInput("images", [len(contents)], "BYTES").set_data_from_numpy(
        array, binary_data=binary
    )


def texts(values: NDArray[np.object_]) -> list[str]:
    """Return the elements of a BYTES tensor; those of raw tensors are bytes."""
    return [value.decode() if isinstance(value, bytes) else value for value in values.ravel()]


def assert_answers(
    result: triton.InferResult, images: UInt8Array, engine: Engine, model: StoredModel
) -> None:
    """Check all three outputs, compared with the engine's."""
    expected = engine.predict(images)
    best = expected.argmax(axis=1)
    probabilities, index = result.as_numpy("probabilities"), result.as_numpy("index")
    np.testing.assert_allclose(probabilities, expected, atol=TOLERANCE)
    np.testing.assert_array_equal(index, best)
    assert texts(result.as_numpy("label")) == [model.card.class_names[place] for place in best]
    assert (probabilities.dtype, index.dtype) == (np.float32, np.int64)
    assert result.get_response()["model_name"] == model.name
    assert result.get_response()["model_version"] == model.version


# What answers


def test_server_is_live_and_ready_and_lists_its_extensions(
    triton_client: triton.InferenceServerClient,
) -> None:
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    described = triton_client.get_server_metadata()
    assert described["name"] == "loupe"
    assert {"binary_tensor_data", "model_configuration"} <= set(described["extensions"])


def test_model_is_ready_by_name_version_or_label(
    triton_client: triton.InferenceServerClient, digits_model: StoredModel
) -> None:
    for name, version in (
        ("digits", ""),
        ("digits", digits_model.version),
        ("digits", "latest"),
        ("shapes", ""),
    ):
        assert triton_client.is_model_ready(name, version)
    for name, version in (("birds", ""), ("digits", "0000000"), ("digits:latest", "latest")):
        assert not triton_client.is_model_ready(name, version)


def test_metadata_describes_inputs_and_outputs_of_a_model(
    triton_client: triton.InferenceServerClient,
    digits_model: StoredModel,
    shapes_model: StoredModel,
) -> None:
    described = triton_client.get_model_metadata("digits")

    assert described == triton_client.get_model_metadata("digits", digits_model.version)
    assert (described["name"], described["versions"]) == ("digits", [digits_model.version])
    assert described["platform"] == "onnxruntime_onnx"
    assert described["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 28, 28]}]
    outputs = triton_client.infer("digits", [tensor(DIGITS)]).get_response()["outputs"]
    for promised, got in zip(described["outputs"], outputs, strict=True):
        assert (promised["name"], promised["datatype"]) == (got["name"], got["datatype"])
        assert promised["shape"] == [-1, *got["shape"][1:]]
    assert triton_client.get_model_metadata("shapes")["outputs"][0]["shape"] == [
        -1,
        len(shapes_model.card.class_names),
    ]


# Inference


@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
def test_raw_tensors_and_json_give_the_same_answers(
    triton_client: triton.InferenceServerClient,
    engine: Engine,
    digits_model: StoredModel,
    binary_in: bool,
    binary_out: bool,
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in OUTPUTS]
    result = triton_client.infer("digits", [tensor(DIGITS, binary=binary_in)], outputs=outputs)

    assert_answers(result, DIGITS, engine, digits_model)
    assert ("data" in result.get_output("label")) is not binary_out


def test_all_outputs_are_sent_if_none_is_named(
    triton_client: triton.InferenceServerClient, engine: Engine, digits_model: StoredModel
) -> None:
    many = pictures.digits(300, seed=12)

    assert_answers(triton_client.infer("digits", [tensor(many)]), many, engine, digits_model)


def test_blank_pictures_have_neither_label_nor_index(
    triton_client: triton.InferenceServerClient,
) -> None:
    result = triton_client.infer(
        "digits", [tensor(np.stack([np.zeros_like(DIGITS[0]), DIGITS[0]]))]
    )

    label, index = texts(result.as_numpy("label")), result.as_numpy("index")
    assert (label[0], index[0]) == ("", -1)
    assert label[1] == str(index[1])


def test_colour_axis_of_one_is_accepted(
    triton_client: triton.InferenceServerClient, engine: Engine, digits_model: StoredModel
) -> None:
    assert_answers(
        triton_client.infer("digits", [tensor(DIGITS[..., None])]), DIGITS, engine, digits_model
    )


def test_requested_outputs_are_sent_in_their_order(
    triton_client: triton.InferenceServerClient,
) -> None:
    outputs = [
        triton.InferRequestedOutput("index"),
        triton.InferRequestedOutput("label", binary_data=False),
    ]
    result = triton_client.infer("digits", [tensor(DIGITS)], outputs=outputs)

    assert [output["name"] for output in result.get_response()["outputs"]] == ["index", "label"]
    assert result.as_numpy("probabilities") is None
    assert texts(result.as_numpy("label")) == [str(place) for place in result.as_numpy("index")]


def test_id_is_returned_if_there_is_one(
    triton_client: triton.InferenceServerClient,
) -> None:
    assert (
        triton_client.infer("digits", [tensor(DIGITS)], request_id="seven").get_response()["id"]
        == "seven"
    )
    assert "id" not in triton_client.infer("digits", [tensor(DIGITS)]).get_response()


def test_classification_has_the_format_of_triton(
    triton_client: triton.InferenceServerClient, engine: Engine, digits_model: StoredModel
) -> None:
    result = triton_client.infer(
        "digits",
        [tensor(DIGITS)],
        outputs=[triton.InferRequestedOutput("probabilities", class_count=3)],
    )

    classes = result.as_numpy("probabilities")
    assert classes.shape == (5, 3)
    for row, expected in zip(classes, engine.predict(DIGITS), strict=True):
        parts = [text.split(":") for text in texts(row)]
        best = np.argsort(-expected)[:3]
        assert [int(index) for _, index, _ in parts] == best.tolist()
        assert [label for *_, label in parts] == [
            digits_model.card.class_names[place] for place in best
        ]
        assert [float(value) for value, *_ in parts] == pytest.approx(expected[best], abs=TOLERANCE)


@pytest.mark.parametrize("binary", [True, False])
def test_pictures_of_any_size_are_normalized(
    triton_client: triton.InferenceServerClient,
    engine: Engine,
    digits_model: StoredModel,
    binary: bool,
) -> None:
    sheet = np.full((400, 300), 230, np.uint8)
    sheet[100:300, 140:170] = 20
    contents = [pictures.png(sheet), pictures.png(DIGITS[0])]
    sent = contents if binary else [base64.b64encode(content) for content in contents]
    expected = np.stack([normalize_pixels(sheet, ImageSpec("ink")), DIGITS[0]])

    result = triton_client.infer("digits", [files(sent, binary=binary)])
    assert_answers(result, expected, engine, digits_model)


def test_versions_and_labels_select_their_models(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    for version in ("better", "newest"):
        copied(digits_model, store, f"digits:{version}")
    promote("digits:better")
    with (
        serving(
            tmp_path / "log", BENTOML_HOME=store, LOUPE_MODELS="digits:production,digits:latest"
        ) as service,
        triton.InferenceServerClient(service.url.removeprefix("http://")) as client,
    ):
        asked = [
            ("production", "better"),
            ("better", "better"),
            ("latest", "newest"),
            ("newest", "newest"),
        ]
        for version, answering in asked:
            answer = client.infer("digits", [tensor(DIGITS)], model_version=version).get_response()
            assert answer["model_version"] == answering
        assert sorted(client.get_model_metadata("digits", "production")["versions"]) == [
            "better",
            "newest",
        ]


def test_concurrent_requests_get_their_own_answers(
    service: RunningService, engine: Engine, digits_model: StoredModel
) -> None:
    requests = [pictures.digits(1 + place % 7, seed=200 + place) for place in range(40)]

    async def ask_all() -> list[triton.InferResult]:
        async with triton_aio.InferenceServerClient(service.url.removeprefix("http://")) as client:
            assert await client.is_server_ready()
            asked = (
                client.infer("digits", [tensor(images)], request_id=str(len(images)))
                for images in requests
            )
            return list(await asyncio.gather(*asked))

    for images, result in zip(requests, asyncio.run(ask_all()), strict=True):
        assert result.get_response()["id"] == str(len(images))
        assert_answers(result, images, engine, digits_model)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered(
    triton_client: triton.InferenceServerClient,
    engine: Engine,
    digits_model: StoredModel,
    algorithm: str,
) -> None:
    result = triton_client.infer(
        "digits", [tensor(DIGITS)], request_compression_algorithm=algorithm
    )

    assert_answers(result, DIGITS, engine, digits_model)


# Refusals


def refusal(
    client: triton.InferenceServerClient, *inputs: triton.InferInput, **options: object
) -> tuple[int, str]:
    """Return status and message of the error of a request."""
    with pytest.raises(InferenceServerException) as raised:
        client.infer(**{"model_name": "digits", "inputs": list(inputs), **options})
    return int(raised.value.status()), raised.value.message()


def test_errors_reach_the_client_with_status_and_reason(
    triton_client: triton.InferenceServerClient,
) -> None:
    good = pictures.png(DIGITS[0])
    for status, fact, refused in (
        (404, "birds", {"model_name": "birds"}),
        (404, "digits:9", {"model_version": "9"}),
        (400, "inputs", {"inputs": [tensor(DIGITS), tensor(DIGITS)]}),
        (400, "[28, 28]", {"inputs": [tensor(DIGITS[0])]}),
        (400, "'x'", {"outputs": [triton.InferRequestedOutput("x")]}),
        (413, "5,000", {"inputs": [tensor(np.zeros((5000, 28, 28), np.uint8))]}),
        (422, "Image 1: ", {"inputs": [files([good, b"no image"])]}),
        (504, "1e-06 s", {"timeout": 1}),
    ):
        got, message = refusal(triton_client, tensor(DIGITS), **refused)
        assert (got, fact in message) == (status, True), message
    assert triton_client.infer("digits", [tensor(DIGITS)]).as_numpy("index").shape == (5,)


def test_errors_have_the_shape_of_loupe(client: httpx.Client) -> None:
    for content in (b'{"inputs": []}', b""):
        refused = client.post("/v2/models/digits/infer", content=content)

        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
        assert refused.json().keys() == {"error", "code"}


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "application/x-www-form-urlencoded"}], ids=["none", "curl -d"]
)
def test_content_type_is_ignored(client: httpx.Client, headers: dict[str, str]) -> None:
    pixels = {
        "name": "images",
        "shape": [1, 28, 28],
        "datatype": "UINT8",
        "data": DIGITS[:1].tolist(),
    }
    body = json.dumps({"inputs": [pixels]})
    response = client.post("/v2/models/digits/infer", content=body, headers=headers)

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"


def test_protocol_has_its_own_label_in_the_metrics(client: httpx.Client) -> None:
    client.get("/v2")
    client.post("/v2/models/digits/infer", content=b"{}")
    metrics = client.get("/metrics").text

    assert 'loupe_requests_total{key="-",model="-",protocol="v2",status="200"}' in metrics
    assert 'loupe_requests_total{key="-",model="digits",protocol="v2",status="400"}' in metrics
