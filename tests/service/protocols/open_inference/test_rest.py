"""Requests and answers of the Open Inference Protocol without a server."""

import asyncio
import base64
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.responses import Response

from loupe import __version__
from loupe.errors import InvalidRequest, LoupeError
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.engines.engine import Outputs
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.prediction.caller import Caller
from service.prediction.decoding import Decoders, Preparation
from service.protocols.open_inference.replies import answer, compute
from service.protocols.open_inference.requests import (
    InferenceRequest,
    RequestedOutput,
    parse_inference,
)
from service.protocols.open_inference.tensors import read_images
from tests.support import pictures
from tests.support.pictures import SIDE
from tests.support.stores import card

SETTINGS = Settings(max_images_per_request=8)
DIGITS = pictures.digits(3)
ROWS = np.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]], np.float32)
INKED = np.zeros(3, bool)  # no blank pictures
OUTPUTS = Outputs.of(ROWS)
NAMED = ["probabilities", "label", "index"]
PIXELS: dict[str, object] = {"name": "images", "datatype": "UINT8", "shape": [3, SIDE, SIDE]}
FILES: dict[str, object] = {"name": "images", "datatype": "BYTES", "shape": [3]}
LENGTHS = [0, 1, 28, 783, 784, 785, 2352]

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def body(inputs: object = None, raw: bytes = b"", **fields: object) -> tuple[bytes, str]:
    """Return a request, and the length of its JSON."""
    text = json.dumps({"inputs": inputs, **fields}).encode()
    return text + raw, str(len(text))


def read(content: bytes, json_length: str | None = None) -> UInt8Array:
    request, values = asyncio.run(parse_inference(content, json_length, SETTINGS))
    preparation = Preparation(ImageSpec("ink"), "auto", Caller.within(10), Decoders(SETTINGS))
    return asyncio.run(read_images(request.inputs[0], values, SETTINGS, preparation))


def output(name: str, binary: bool | None = None, classes: int | None = None) -> RequestedOutput:
    parameters = {"binary_data": binary, "classification": classes}
    return RequestedOutput.model_validate({"name": name, "parameters": parameters})


def outputs_of(content: bytes, json_length: str | None) -> list[tuple[str, bool]]:
    """Return name and form of the outputs that a request asks for."""
    request, _ = asyncio.run(parse_inference(content, json_length, SETTINGS))
    return [(each.name, request.is_binary(each)) for each in request.requested_outputs()]


def refusal(request: bytes, json_length: str | None = None) -> LoupeError | None:
    """Return the `LoupeError`, if there is one; others fail the test."""
    try:
        read(request, json_length)
    except LoupeError as error:
        return error
    return None


def elements(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "little") + value for value in values)


def binary(tensor: dict[str, object], raw: bytes, **fields: object) -> tuple[bytes, str]:
    return body([{**tensor, "parameters": {"binary_data_size": len(raw)}}], raw, **fields)


# Requests


@pytest.mark.parametrize("shape", [[3, 28, 28], [3, 28, 28, 1]])
def test_pixels_are_read_raw_nested_or_flat(shape: list[int]) -> None:
    tensor = {**PIXELS, "shape": shape}
    for request in (
        binary(tensor, DIGITS.tobytes()),
        body([{**tensor, "data": DIGITS.reshape(shape).tolist()}]),
        body([{**tensor, "data": DIGITS.ravel().tolist()}]),
    ):
        np.testing.assert_array_equal(read(*request), DIGITS)


def test_null_fields_count_as_missing() -> None:
    data = {"data": DIGITS.tolist(), "parameters": None}
    outputs = [
        {"name": "index", "parameters": None},
        {"name": "label", "parameters": {"binary_data": None}},
    ]

    asked = outputs_of(*body([{**PIXELS, **data}], outputs=outputs))
    assert asked == [("index", False), ("label", False)]


def test_raw_pixels_are_not_copied() -> None:
    request, json_length = binary(PIXELS, DIGITS.tobytes())

    assert np.shares_memory(read(request, json_length), np.frombuffer(request, np.uint8))


@pytest.mark.parametrize("shape", [[3], [3, 1]])
def test_pictures_are_read_raw_or_as_base64(shape: list[int]) -> None:
    files = [pictures.png(digit) for digit in DIGITS]
    texts = [base64.b64encode(file).decode() for file in files]
    tensor = {**FILES, "shape": shape}
    for request in (
        binary(tensor, elements(*files)),
        body([{**tensor, "data": texts}]),
        body([{**tensor, "data": [[text] for text in texts] if len(shape) > 1 else texts}]),
    ):
        np.testing.assert_array_equal(read(*request), DIGITS)


def test_all_outputs_are_sent_if_none_is_named() -> None:
    for content in (
        binary(PIXELS, b""),
        binary(PIXELS, b"", outputs=[]),
        binary(PIXELS, b"", outputs=None),
        binary(PIXELS, b"", id=None, parameters=None),
        binary(PIXELS, b"", parameters={"binary_data_output": None, "timeout": None}),
    ):
        assert outputs_of(*content) == [
            ("probabilities", False),
            ("label", False),
            ("index", False),
            ("familiarity", False),
        ]


def test_parameters_of_an_output_override_those_of_the_request() -> None:
    content = binary(
        PIXELS,
        b"",
        id="7",
        parameters={"binary_data_output": True, "timeout": 1500, "priority": 3},
        outputs=[
            {"name": "index", "parameters": {"binary_data": False}},
            {"name": "probabilities", "parameters": {"classification": 2}},
        ],
    )
    request, _ = asyncio.run(parse_inference(*content, SETTINGS))

    assert (request.id, request.timeout_seconds) == ("7", 0.0015)
    assert outputs_of(*content) == [("index", False), ("probabilities", True)]
    assert request.requested_outputs()[1].parameters.classification == 2


def test_timeout_of_zero_is_no_timeout() -> None:
    request, _ = asyncio.run(
        parse_inference(*binary(PIXELS, b"", parameters={"timeout": 0}), SETTINGS)
    )
    assert request.timeout_seconds is None


ZEROS = [0] * SIDE * SIDE
ONE: dict[str, object] = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE]}
IMAGE = [{**ONE, "data": ZEROS}]
MALFORMED: list[tuple[str, tuple[bytes, str | None], str, str]] = [
    ("binary file", (b"\x89PNG", None), "invalid_json", "JSON"),
    ("NaN", (b'{"inputs": [NaN]}', None), "invalid_json", "JSON"),
    ("deep JSON", (b"[" * 50_000, None), "invalid_json", "JSON"),
    ("header too small", (body([ONE])[0], "5"), "invalid_json", "JSON"),
    ("header beyond the body", (b"{}", "3"), "", "0 to 2"),
    ("negative header", (b"{}", "-1"), "", "'-1'"),
    ("header with another digit", (b"{}", "²"), "", "'²'"),
    ("endless header", (b"{}", "9" * 10_000), "", "Inference-Header-Content-Length"),
    ("array", (b"[]", None), "", "object"),
    ("no inputs", (b"{}", None), "", "inputs"),
    ("empty inputs", body([]), "", "inputs"),
    ("two inputs", body([ONE, ONE]), "", "inputs"),
    ("number as input", body([1]), "", "inputs.0"),
    ("unknown input", body([{**ONE, "name": "x"}]), "", "'x'"),
    ("input without a name", body([{}]), "", "inputs.0.name"),
    ("wrong datatype", body([{**ONE, "datatype": "FP32"}]), "", "'FP32'"),
    ("no datatype", body([{"name": "images"}]), "", "inputs.0.datatype"),
    ("no shape", body([{"name": "images", "datatype": "UINT8"}]), "", "inputs.0.shape"),
    ("one image without an axis", body([{**ONE, "shape": [28, 28], "data": []}]), "", "[28, 28]"),
    ("rows of 784", body([{**ONE, "shape": [1, 784], "data": []}]), "", "[1, 784]"),
    ("negative shape", body([{**ONE, "shape": [-1, 28, 28]}]), "", "inputs.0.shape.0"),
    ("shape with a fraction", body([{**ONE, "shape": [1.0, 28, 28]}]), "", "inputs.0.shape.0"),
    ("shape with a boolean", body([{**ONE, "shape": [True, 28, 28]}]), "", "inputs.0.shape.0"),
    ("long shape", body([{**ONE, "shape": [1] * 99_999}]), "", "inputs.0.shape"),
    ("table of files", body([{**FILES, "shape": [2, 2], "data": []}]), "", "[2, 2]"),
    ("no data", body([ONE]), "", "data"),
    ("no images", body([{**ONE, "shape": [0, 28, 28], "data": []}]), "", "no images"),
    ("too few values", body([{**ONE, "data": [0] * 5}]), "", "784 values, got 5"),
    ("rows of 27", body([{**ONE, "data": [[[0] * 27] * 28]}]), "", "[1, 28, 28]"),
    ("too few files", body([{**FILES, "data": ["", ""]}]), "", "3 values, got 2"),
    ("too few raw values", binary(ONE, bytes(783)), "", "784 values, got 783"),
    ("raw bytes without a size", body([ONE], b"123"), "", "3 bytes"),
    (
        "data and raw bytes",
        body([{**ONE, "data": ZEROS, "parameters": {"binary_data_size": 0}}]),
        "",
        "binary_data_size",
    ),
    (
        "size too large",
        body([{**ONE, "parameters": {"binary_data_size": 785}}], bytes(784)),
        "",
        "785",
    ),
    (
        "size without the header",
        (body([{**ONE, "parameters": {"binary_data_size": 784}}])[0], None),
        "",
        "Inference-Header-Content-Length",
    ),
    (
        "size as text",
        body([{**ONE, "parameters": {"binary_data_size": "0"}}]),
        "",
        "binary_data_size",
    ),
    ("parameters as a list", body(IMAGE, parameters=[]), "", "parameters"),
    (
        "shared memory",
        body([{**ONE, "parameters": {"shared_memory_region": "x"}}]),
        "",
        "Shared memory",
    ),
    ("number as id", body(IMAGE, id=7), "", "id"),
    ("timeout as text", body(IMAGE, parameters={"timeout": "1"}), "", "parameters.timeout"),
    ("negative timeout", body(IMAGE, parameters={"timeout": -1}), "", "parameters.timeout"),
    (
        "number as flag",
        body(IMAGE, parameters={"binary_data_output": 1}),
        "",
        "parameters.binary_data_output",
    ),
    ("unknown output", body(IMAGE, outputs=[{"name": "scores"}]), "", "'scores'"),
    ("output twice", body(IMAGE, outputs=[{"name": "label"}] * 2), "", "twice"),
    ("text as output", body(IMAGE, outputs=["label"]), "", "outputs.0"),
    ("text as outputs", body(IMAGE, outputs="label"), "", "outputs"),
    (
        "classification of labels",
        body(IMAGE, outputs=[{"name": "label", "parameters": {"classification": 1}}]),
        "",
        "classification",
    ),
    (
        "no classes",
        body(IMAGE, outputs=[{"name": "probabilities", "parameters": {"classification": 0}}]),
        "",
        "classification",
    ),
    ("files cut short", binary(FILES, elements(b"ab", b"cd")), "", "element 2"),
    ("endless file", binary({**FILES, "shape": [1]}, b"\xff" * 8), "", "element 0"),
    ("too many files", binary({**FILES, "shape": [1]}, elements(b"ab", b"cd")), "", "6 bytes"),
]


@pytest.mark.parametrize(
    ("content", "code", "fact"), [pytest.param(*row[1:], id=row[0]) for row in MALFORMED]
)
def test_malformed_request_is_refused_with_the_reason(
    content: tuple[bytes, str | None], code: str, fact: str
) -> None:
    error = refusal(*content)

    assert error is not None
    assert (error.status, error.code) == (400, code or "invalid_request")
    assert fact in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize("shape", [[9, 28, 28], [2**63, 28, 28]])
def test_shape_with_too_many_images_is_refused_before_the_values_are_read(
    shape: list[int],
) -> None:
    error = refusal(*binary({**ONE, "shape": shape}, b""))

    assert error is not None
    assert (error.status, error.code) == (413, "too_many_images")


@pytest.mark.parametrize("value", [256, -1, 0.5, None, "0", True, []])
def test_value_that_is_not_a_pixel_is_refused_with_its_image(value: object) -> None:
    error = refusal(*body([{**PIXELS, "data": [*ZEROS, *ZEROS, *ZEROS[1:], value]}]))

    assert error is not None
    assert (error.status, error.code) == (422, "invalid_pixels")
    assert error.message.startswith("Image 2: ")


def test_picture_that_cannot_be_read_is_refused_with_its_index() -> None:
    good = pictures.png(DIGITS[0])
    error = refusal(*binary(FILES, elements(good, b"no image", good)))

    assert error is not None
    assert (error.status, error.code) == (422, "invalid_image")
    assert error.message.startswith("Image 1: ")


def test_all_pictures_that_cannot_be_read_are_listed() -> None:
    error = refusal(*body([{**FILES, "data": ["http://localhost/a.png", "", 7]}]))

    assert error is not None
    assert (error.status, error.code) == (422, "invalid_image")
    assert error.message.startswith("Images 0, 1, 2 cannot be used. Image 0: ")


@given(
    value=st.fixed_dictionaries(
        {},
        optional={
            "id": JSON_VALUES,
            "parameters": JSON_VALUES,
            "outputs": JSON_VALUES,
            "inputs": JSON_VALUES
            | st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.just("images"),
                        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]),
                    },
                    optional={
                        "shape": st.lists(
                            st.integers(-2, 2**70) | st.sampled_from([0, 1, 28]), max_size=5
                        ),
                        "data": JSON_VALUES
                        | st.sampled_from(LENGTHS).map(lambda length: [0] * length),
                        "parameters": JSON_VALUES
                        | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 99)}),
                    },
                ),
                max_size=2,
            ),
        },
    ),
    raw=st.binary(max_size=20),
    json_length=st.none() | st.integers(-1, 200).map(str) | st.text(max_size=4),
)
@example(value={"inputs": [{**ONE, "data": [[[True] * 28] * 28]}]}, raw=b"", json_length=None)
@example(value={"inputs": [{**FILES, "shape": [1], "data": [[["x"]]]}]}, raw=b"", json_length=None)
def test_any_request_gives_images_or_a_named_error(
    value: object, raw: bytes, json_length: str | None
) -> None:
    text = json.dumps(value).encode()
    for length in (json_length, str(len(text))):
        error = refusal(text + raw, length)
        assert error is None or (error.status in (400, 413, 422) and error.message)


@given(
    datatype=st.sampled_from(["UINT8", "BYTES"]),
    shape=st.lists(st.integers(0, 3) | st.just(28), min_size=1, max_size=4),
    raw=st.binary(max_size=40) | st.sampled_from(LENGTHS).map(bytes),
)
def test_any_raw_bytes_give_images_or_a_named_error(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    error = refusal(*binary({"name": "images", "datatype": datatype, "shape": shape}, raw))
    if error is None:
        assert (datatype, shape[1:3], shape[0] * SIDE * SIDE) == ("UINT8", [SIDE, SIDE], len(raw))
    else:
        assert error.status in (400, 413, 422)


@given(request=st.binary(max_size=60), json_length=st.none() | st.integers(0, 60).map(str))
def test_random_bytes_give_a_named_error(request: bytes, json_length: str | None) -> None:
    error = refusal(request, json_length)

    assert error is not None
    assert error.status == 400


# Answers


def model(tmp_path: Path) -> StoredModel:
    return StoredModel("letters:1", tmp_path, card(class_names=("a", "Größe")))


def parts(response: Response) -> tuple[Any, bytes]:
    """Return the JSON, and the bytes after it."""
    content = bytes(response.body)
    end = int(response.headers.get("inference-header-content-length", len(content)))
    return json.loads(content[:end]), content[end:]


def asked(*outputs: RequestedOutput, id: str | None = None) -> InferenceRequest:
    request = InferenceRequest.model_validate({"id": id, "inputs": [PIXELS]})
    return request.model_copy(update={"outputs": list(outputs)})


def test_answer_in_json_is_flat_and_names_model_and_version(tmp_path: Path) -> None:
    outputs = [output(name) for name in ("index", "label", "probabilities")]
    response = answer(model(tmp_path), asked(*outputs), OUTPUTS, INKED)

    assert response.media_type == "application/json"
    assert "inference-header-content-length" not in response.headers
    content, rest = parts(response)
    assert rest == b""
    probabilities = content["outputs"].pop()
    assert content == {
        "model_name": "letters",
        "model_version": "1",
        "outputs": [
            {"name": "index", "shape": [3], "datatype": "INT64", "data": [1, 0, 0]},
            {"name": "label", "shape": [3], "datatype": "BYTES", "data": ["Größe", "a", "a"]},
        ],
    }
    assert probabilities["data"] == pytest.approx(ROWS.ravel().tolist())
    assert (probabilities["shape"], probabilities["datatype"]) == ([3, 2], "FP32")


def test_raw_tensors_follow_the_json_in_their_order(tmp_path: Path) -> None:
    outputs = [output("label", True), output("index"), output("probabilities", True)]
    content, rest = parts(answer(model(tmp_path), asked(*outputs, id="seven"), OUTPUTS, INKED))

    assert content["id"] == "seven"
    label, index, probabilities = content["outputs"]
    assert index["data"] == [1, 0, 0]
    texts = elements("Größe".encode(), b"a", b"a")
    assert label["parameters"] == {"binary_data_size": len(texts)}
    assert probabilities["parameters"] == {"binary_data_size": ROWS.nbytes}
    assert "data" not in label
    assert rest == texts + ROWS.tobytes()


def test_blank_pictures_have_neither_label_nor_index() -> None:
    blank = np.array([False, True, False])

    assert compute(output("label"), ("a", "b"), OUTPUTS, blank).values == ["b", "", "a"]
    index = compute(output("index"), ("a", "b"), OUTPUTS, blank)
    assert index.datatype == "INT64"
    assert np.array_equal(index.values, [1, -1, 0])


def test_classification_has_the_format_of_triton() -> None:
    tensor = compute(output("probabilities", classes=1), ("a", "b"), OUTPUTS, INKED)

    assert (tensor.datatype, tensor.shape) == ("BYTES", (3, 1))
    assert tensor.values == ["0.750000:1:b", "0.500000:0:a", "0.900000:0:a"]


def test_classification_of_more_classes_than_exist_has_all_classes() -> None:
    first = Outputs.of(ROWS[:1])
    tensor = compute(output("probabilities", classes=2**70), ("a", "b"), first, INKED[:1])

    assert (tensor.shape, tensor.values) == ((1, 2), ["0.750000:1:b", "0.250000:0:a"])


def test_familiarity_is_an_output_of_models_that_know_it(tmp_path: Path) -> None:
    known = Outputs(ROWS, np.array([0.5, 0.25, 0], np.float32))
    content, _ = parts(answer(model(tmp_path), asked(), known, INKED))

    assert [each["name"] for each in content["outputs"]] == [*NAMED, "familiarity"]
    assert content["outputs"][3]["data"] == [0.5, 0.25, 0]
    content, _ = parts(answer(model(tmp_path), asked(), OUTPUTS, INKED))
    assert [each["name"] for each in content["outputs"]] == NAMED


def test_familiarity_of_a_model_that_does_not_know_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as refused:
        answer(model(tmp_path), asked(output("familiarity")), OUTPUTS, INKED)

    assert refused.value.code == "invalid_request"


def test_version_is_that_of_the_package() -> None:
    assert __version__ == version("loupe-images")
