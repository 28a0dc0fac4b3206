"""The Open Inference Protocol without a server: whatever the bytes, a request or a named error; and tensors as clients read them."""

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
from loupe.errors import LoupeError
from loupe.images.spec import SIDE, UInt8Array
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.prediction.caller import Caller
from service.prediction.inputs import Preparation
from service.protocols.open_inference.replies import answer, compute
from service.protocols.open_inference.requests import (
    Inference,
    Tensor,
    Wanted,
    parse_inference,
    read_images,
)
from tests.support import pictures
from tests.support.stores import card

SETTINGS = Settings(max_images_per_request=8)
DIGITS = pictures.digits(3)
ROWS = np.array([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]], np.float32)
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
    """A request, and the length of its JSON."""
    text = json.dumps({"inputs": inputs, **fields}).encode()
    return text + raw, str(len(text))


def images_of(tensor: Tensor) -> UInt8Array:
    return asyncio.run(read_images(tensor, SETTINGS, Preparation("ink", "auto", Caller.within(10))))


def read(request: bytes, json_length: str | None = None) -> UInt8Array:
    return images_of(parse_inference(request, json_length).images)


def refusal(request: bytes, json_length: str | None = None) -> LoupeError | None:
    """The error that Loupe names, if it does; any other goes on to the test."""
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


def test_fields_that_serializers_leave_null_are_as_if_they_were_not_there() -> None:
    data = {"data": DIGITS.tolist(), "parameters": None}
    outputs = [
        {"name": "index", "parameters": None},
        {"name": "label", "parameters": {"binary_data": None}},
    ]

    inference = parse_inference(*body([{**PIXELS, **data}], outputs=outputs))
    assert inference.outputs == [Wanted("index", binary=False), Wanted("label", binary=False)]


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


def test_all_outputs_are_wanted_where_none_is_named() -> None:
    for request in (
        binary(PIXELS, b""),
        binary(PIXELS, b"", outputs=[]),
        binary(PIXELS, b"", outputs=None),
        binary(PIXELS, b"", id=None, parameters=None),
        binary(PIXELS, b"", parameters={"binary_data_output": None, "timeout": None}),
    ):
        inference = parse_inference(*request)

        assert inference.outputs == [
            Wanted(name, binary=False) for name in ("probabilities", "label", "index")
        ]
        assert (inference.id, inference.timeout_seconds) == (None, None)


def test_an_output_s_own_word_overrides_the_request_s() -> None:
    inference = parse_inference(
        *binary(
            PIXELS,
            b"",
            id="7",
            parameters={"binary_data_output": True, "timeout": 1500, "priority": 3},
            outputs=[
                {"name": "index", "parameters": {"binary_data": False}},
                {"name": "probabilities", "parameters": {"classification": 2}},
            ],
        )
    )

    assert (inference.id, inference.timeout_seconds) == ("7", 0.0015)
    assert inference.outputs == [
        Wanted("index", binary=False),
        Wanted("probabilities", binary=True, classes=2),
    ]


def test_a_timeout_of_zero_is_none() -> None:
    assert parse_inference(*binary(PIXELS, b"", parameters={"timeout": 0})).timeout_seconds is None


ZEROS = [0] * SIDE * SIDE
ONE: dict[str, object] = {"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE]}
MALFORMED = [
    ("no JSON", (b"\x89PNG", None), "Expected JSON. Received: a body that is none"),
    ("NaN", (b'{"inputs": [NaN]}', None), "Expected JSON. Received: a body that is none"),
    ("deep JSON", (b"[" * 50_000, None), "Expected JSON. Received: a body that is none"),
    ("header that ends early", (body([ONE])[0], "5"), "Expected JSON. Received: a body that is none"),
    ("header beyond the body", (b"{}", "3"), "Inference-Header-Content-Length of 0 to 2, the body's bytes. Received: '3'."),
    ("header that is negative", (b"{}", "-1"), "Received: '-1'."),
    ("header that is no number", (b"{}", "²"), "Received: '²'."),
    ("header that is endless", (b"{}", "9" * 10_000), "Received: '999999"),
    ("an array", (b"[]", None), "Expected a JSON object as an inference request. Received: JSON of type array."),
    ("no inputs", (b"{}", None), "Expected a JSON array as inputs. Received: JSON of type null."),
    ("inputs that are empty", body([]), "Expected one input, 'images'. Received: 0."),
    ("input twice", body([ONE, ONE]), "Expected one input, 'images'. Received: 2."),
    ("input that is none", body([1]), "Expected a JSON object as an input. Received: JSON of type number."),
    ("unknown input", body([{**ONE, "name": "x"}]), "Expected one input, 'images'. Received: one named 'x'."),
    ("input without a name", body([{}]), "Received: one named nothing."),
    ("wrong datatype", body([{**ONE, "datatype": "FP32"}]), "'images' of datatype UINT8 or BYTES. Received: 'FP32'."),
    ("no datatype", body([{"name": "images"}]), "UINT8 or BYTES. Received: nothing."),
    ("no shape", body([{"name": "images", "datatype": "UINT8"}]), "[n, 28, 28] or [n, 28, 28, 1]. Received: nothing."),
    ("one image alone", body([{**ONE, "shape": [28, 28]}]), "Received: [28, 28]."),
    ("rows of 784", body([{**ONE, "shape": [1, 784]}]), "Received: [1, 784]."),
    ("negative shape", body([{**ONE, "shape": [-1, 28, 28]}]), "Received: [-1, 28, 28]."),
    ("shape of fractions", body([{**ONE, "shape": [1.0, 28, 28]}]), "Received: [1.0, 28, 28]."),
    ("shape of truth", body([{**ONE, "shape": [True, 28, 28]}]), "Received: [True, 28, 28]."),
    ("long shape", body([{**ONE, "shape": [1] * 99_999}]), "Received: [1, 1, 1, 1, 1, 1, ...]."),
    ("table of files", body([{**FILES, "shape": [2, 2]}]), "datatype BYTES in the shape [n] or [n, 1]. Received: [2, 2]."),
    ("no data", body([ONE]), "Expected a JSON array as data of 'images'. Received: JSON of type null."),
    ("no images", body([{**ONE, "shape": [0, 28, 28], "data": []}]), "Expected at least one image. Received: an empty batch."),
    ("too few values", body([{**ONE, "data": [0] * 5}]), "Expected 784 values for the shape [1, 28, 28]. Received: 5."),
    ("other rows", body([{**ONE, "data": [[[0] * 27] * 28]}]), "nested as the shape [1, 28, 28]. Received: nested otherwise."),
    ("too few files", body([{**FILES, "data": ["", ""]}]), "Expected 3 values for the shape [3]. Received: 2."),
    ("too few raw values", binary(ONE, bytes(783)), "Expected 784 values for the shape [1, 28, 28]. Received: 783."),
    (
        "bytes without a size",
        body([ONE], b"123"),
        "Expected binary_data_size of 'images' for the 3 bytes behind the JSON. Received: none.",
    ),
    (
        "data and bytes",
        body([{**ONE, "data": ZEROS, "parameters": {"binary_data_size": 0}}]),
        "Expected 'images' with data or with binary_data_size. Received: both.",
    ),
    (
        "a size too large",
        body([{**ONE, "parameters": {"binary_data_size": 785}}], bytes(784)),
        "as binary_data_size has. Received: 784, and binary_data_size 785.",
    ),
    (
        "a size without the header",
        (body([{**ONE, "parameters": {"binary_data_size": 784}}])[0], None),
        "which ends where Inference-Header-Content-Length says, as binary_data_size has. Received: 0,",
    ),
    ("a size that is a text", body([{**ONE, "parameters": {"binary_data_size": "0"}}]), "binary_data_size '0'."),
    ("parameters that are none", body([ONE], parameters=[]), "as parameters of the request. Received: JSON of type array."),
    (
        "shared memory",
        body([{**ONE, "parameters": {"shared_memory_region": "x"}}]),
        "Expected no shared memory; send and receive 'images' in the body. Received: shared_memory_region.",
    ),
    ("id that is a number", body([{**ONE, "data": ZEROS}], id=7), "Expected a string as id. Received: 7."),
    (
        "timeout that is a text",
        body([{**ONE, "data": ZEROS}], parameters={"timeout": "1"}),
        "Expected a whole number of microseconds as timeout. Received: '1'.",
    ),
    ("negative timeout", body([{**ONE, "data": ZEROS}], parameters={"timeout": -1}), "as timeout. Received: -1."),
    (
        "flag that is a number",
        body([{**ONE, "data": ZEROS}], parameters={"binary_data_output": 1}),
        "Expected true or false as binary_data_output. Received: 1.",
    ),
    (
        "unknown output",
        body([{**ONE, "data": ZEROS}], outputs=[{"name": "scores"}]),
        "Expected outputs among probabilities, label, index. Received: 'scores'.",
    ),
    (
        "output twice",
        body([{**ONE, "data": ZEROS}], outputs=[{"name": "label"}, {"name": "label"}]),
        "Expected each output once. Received: one of them more often.",
    ),
    ("output that is a text", body([{**ONE, "data": ZEROS}], outputs=["label"]), "as an output. Received: JSON of type string."),
    ("outputs that are a text", body([{**ONE, "data": ZEROS}], outputs="label"), "as outputs. Received: JSON of type string."),
    (
        "classes of labels",
        body([{**ONE, "data": ZEROS}], outputs=[{"name": "label", "parameters": {"classification": 1}}]),
        "Expected classification of 'probabilities'. Received: of 'label'.",
    ),
    (
        "no classes",
        body([{**ONE, "data": ZEROS}], outputs=[{"name": "probabilities", "parameters": {"classification": 0}}]),
        "Expected a number of classes, at least 1, as classification. Received: 0.",
    ),
    (
        "files cut short",
        binary(FILES, elements(b"ab", b"cd")),
        "Expected 3 elements in 'images', each with its length before it. Received: 12 bytes, which end in element 2.",
    ),
    ("endless file", binary({**FILES, "shape": [1]}, b"\xff" * 8), "which end in element 0."),
    ("files too many", binary({**FILES, "shape": [1]}, elements(b"ab", b"cd")), "Received: 6 bytes more than they have."),
]  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "text"), [pytest.param(*row[1:], id=row[0]) for row in MALFORMED]
)
def test_a_malformed_request_is_refused_with_its_reason(
    request_: tuple[bytes, str | None], text: str
) -> None:
    error = refusal(*request_)

    assert error is not None
    assert error.status == 400
    assert error.message.startswith("Expected ")
    assert text in error.message
    assert len(error.message) < 300


@pytest.mark.parametrize("shape", [[9, 28, 28], [2**63, 28, 28]])
def test_a_shape_of_too_many_images_is_refused_before_its_values_are_looked_at(
    shape: list[int],
) -> None:
    error = refusal(*binary({**ONE, "shape": shape}, b""))

    assert error is not None
    assert (error.status, error.code) == (413, "too_many_images")


@pytest.mark.parametrize(
    ("value", "shown"), [(256, "256"), (-1, "-1"), (0.5, "0.5"), (None, "nothing"), ("0", "'0'"), (True, "True"), ([], "[]")]
)  # fmt: skip
def test_a_value_that_is_no_pixel_is_told_with_its_image(value: object, shown: str) -> None:
    error = refusal(*body([{**PIXELS, "data": [*ZEROS, *ZEROS, *ZEROS[1:], value]}]))

    assert error is not None
    assert (error.status, error.code) == (422, "invalid_pixels")
    assert error.message == f"Image 2: Expected integers from 0 to 255. Received: {shown}."


def test_a_picture_that_cannot_be_read_is_told_with_its_place() -> None:
    good = pictures.png(DIGITS[0])
    error = refusal(*binary(FILES, elements(good, b"no image", good)))

    assert error is not None
    assert (error.status, error.code) == (422, "invalid_image")
    assert error.message.startswith("Image 1: Not a PNG, JPEG")
    assert "text starting 'no image'" in error.message


def test_all_pictures_that_cannot_be_read_are_told_at_once() -> None:
    error = refusal(*body([{**FILES, "data": ["http://localhost/a.png", "", 7]}]))

    assert error is not None
    assert error.message.startswith("Images 0, 1, 2 cannot be used. Image 0: ")
    assert "Loupe fetches nothing" in error.message


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
def test_whatever_a_request_says_it_is_images_or_a_named_error(
    value: object, raw: bytes, json_length: str | None
) -> None:
    text = json.dumps(value).encode()
    for length in (json_length, str(len(text))):
        error = refusal(text + raw, length)
        assert error is None or error.status in (400, 413, 422)


@given(
    datatype=st.sampled_from(["UINT8", "BYTES"]),
    shape=st.lists(st.integers(0, 3) | st.just(28), min_size=1, max_size=4),
    raw=st.binary(max_size=40) | st.sampled_from(LENGTHS).map(bytes),
)
def test_whatever_raw_bytes_follow_they_are_images_or_a_named_error(
    datatype: str, shape: list[int], raw: bytes
) -> None:
    error = refusal(*binary({"name": "images", "datatype": datatype, "shape": shape}, raw))
    if error is None:
        assert (datatype, shape[1:3], shape[0] * SIDE * SIDE) == ("UINT8", [SIDE, SIDE], len(raw))
    else:
        assert error.status in (400, 413, 422)


@given(request=st.binary(max_size=60), json_length=st.none() | st.integers(0, 60).map(str))
def test_whatever_the_bytes_a_request_ends_in_a_named_error(
    request: bytes, json_length: str | None
) -> None:
    error = refusal(request, json_length)

    assert error is not None
    assert error.status == 400


# Answers


def model(tmp_path: Path) -> StoredModel:
    return StoredModel("letters:1", tmp_path, card(class_names=("a", "Größe")))


def parts(response: Response) -> tuple[Any, bytes]:
    """JSON, and what follows it."""
    content = bytes(response.body)
    end = int(response.headers.get("inference-header-content-length", len(content)))
    return json.loads(content[:end]), content[end:]


def asked(*outputs: Wanted, id: str | None = None) -> Inference:
    return Inference(id, None, Tensor("UINT8", [3, SIDE, SIDE], []), list(outputs))


def test_an_answer_in_json_is_flat_and_names_model_and_version(tmp_path: Path) -> None:
    wanted = [Wanted(name, binary=False) for name in ("index", "label", "probabilities")]
    response = answer(model(tmp_path), asked(*wanted), ROWS)

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
    wanted = [
        Wanted("label", binary=True),
        Wanted("index", binary=False),
        Wanted("probabilities", binary=True),
    ]
    content, rest = parts(answer(model(tmp_path), asked(*wanted, id="seven"), ROWS))

    assert content["id"] == "seven"
    label, index, probabilities = content["outputs"]
    assert index["data"] == [1, 0, 0]
    texts = elements("Größe".encode(), b"a", b"a")
    assert label["parameters"] == {"binary_data_size": len(texts)}
    assert probabilities["parameters"] == {"binary_data_size": ROWS.nbytes}
    assert "data" not in label
    assert rest == texts + ROWS.tobytes()


def test_the_most_probable_classes_are_told_as_triton_tells_them() -> None:
    output = compute(Wanted("probabilities", binary=False, classes=1), ("a", "b"), ROWS)

    assert (output.datatype, output.shape) == ("BYTES", (3, 1))
    assert output.values == ["0.750000:1:b", "0.500000:0:a", "0.900000:0:a"]


def test_more_classes_than_there_are_are_all_there_are() -> None:
    output = compute(Wanted("probabilities", binary=False, classes=2**70), ("a", "b"), ROWS[:1])

    assert (output.shape, output.values) == ((1, 2), ["0.750000:1:b", "0.250000:0:a"])


def test_the_version_that_is_told_is_the_package_s() -> None:
    assert __version__ == version("loupe")
