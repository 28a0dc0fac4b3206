"""Messages of the Open Inference Protocol over gRPC, without a server."""

import asyncio

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from loupe.errors import LoupeError
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.settings import Settings
from service.prediction.caller import Caller
from service.prediction.decoding import Decoders, Preparation
from service.protocols.open_inference.messages import parse_message
from service.protocols.open_inference.requests import InferenceRequest, Values
from service.protocols.open_inference.tensors import read_images
from tests.support import pictures
from tests.support.pictures import SIDE

SETTINGS = Settings(max_images_per_request=8)
PARAMETERS = st.dictionaries(
    st.sampled_from(
        ["timeout", "classification", "shared_memory_region", "binary_data_output", "priority"]
    ),
    st.sampled_from(
        [
            {},
            {"int64_param": -1},
            {"string_param": "1"},
            {"bool_param": True},
            {"double_param": np.nan},
        ]
    ),
    max_size=2,
)
CONTENTS = st.fixed_dictionaries(
    {},
    optional={
        "uint_contents": st.lists(st.integers(0, 300), max_size=3) | st.just([0] * SIDE**2),
        "int_contents": st.lists(st.integers(-1, 1), max_size=2),
        "bytes_contents": st.lists(st.binary(max_size=5), max_size=3),
    },
)
INPUTS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["images", "images", "x"]),
        "datatype": st.sampled_from(["UINT8", "BYTES", "FP32"]),
    },
    optional={
        "shape": st.lists(st.sampled_from([-1, 0, 1, 28, 2**62]), max_size=4)
        | st.just([1, SIDE, SIDE]),
        "contents": CONTENTS,
        "parameters": PARAMETERS,
    },
)


def images_of(request: InferenceRequest, values: Values) -> UInt8Array:
    preparation = Preparation(ImageSpec("ink"), "auto", Caller.within(10), Decoders(Settings()))
    return asyncio.run(read_images(request.inputs[0], values, SETTINGS, preparation))


def read(content: dict[str, object]) -> UInt8Array | LoupeError:
    """Return the images or the `LoupeError`; other errors fail the test."""
    try:
        return images_of(*parse_message(pb.ModelInferRequest(**content)))
    except LoupeError as error:
        return error


def test_raw_pixels_are_not_copied() -> None:
    digits = pictures.digits(3)
    tensor = {"name": "images", "datatype": "UINT8", "shape": digits.shape}
    request, values = parse_message(
        pb.ModelInferRequest(inputs=[tensor], raw_input_contents=[digits.tobytes()])
    )
    images = images_of(request, values)

    np.testing.assert_array_equal(images, digits)
    assert isinstance(values, memoryview)
    assert np.shares_memory(images, np.frombuffer(values, np.uint8))


@given(
    content=st.fixed_dictionaries(
        {"inputs": st.lists(INPUTS, min_size=1, max_size=2)},
        optional={
            "parameters": PARAMETERS,
            "outputs": st.lists(
                st.fixed_dictionaries(
                    {
                        "name": st.sampled_from(["label", "probabilities", "x"]),
                        "parameters": PARAMETERS,
                    }
                ),
                max_size=2,
            ),
            "raw_input_contents": st.lists(
                st.binary(max_size=9) | st.just(bytes(SIDE**2)), max_size=2
            ),
        },
    )
)
@example(
    content={
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE]}],
        "raw_input_contents": [b""],
    }
)
def test_any_message_gives_images_or_a_named_error(content: dict[str, object]) -> None:
    outcome = read(content)
    if isinstance(outcome, LoupeError):
        assert outcome.status in (400, 413, 422)
        assert len(outcome.message) < 300
    else:
        assert outcome.shape[1:] == (SIDE, SIDE)
