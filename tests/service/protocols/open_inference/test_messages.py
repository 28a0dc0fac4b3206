"""Messages of the Open Inference Protocol without a server: whatever they say, a request or a named error."""

import asyncio

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from loupe.errors import LoupeError
from loupe.images.spec import SIDE, UInt8Array
from loupe.settings import Settings
from service.prediction.caller import Caller
from service.prediction.inputs import Preparation
from service.protocols.open_inference.messages import parse_inference
from service.protocols.open_inference.requests import Inference, read_images
from tests.support import pictures

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


def images_of(inference: Inference) -> UInt8Array:
    return asyncio.run(
        read_images(inference.images, SETTINGS, Preparation("ink", "auto", Caller.within(10)))
    )


def read(said: dict[str, object]) -> UInt8Array | LoupeError:
    """The images of a request, or the error that Loupe names; any other goes on to the test."""
    try:
        return images_of(parse_inference(pb.ModelInferRequest(**said)))
    except LoupeError as error:
        return error


def test_raw_pixels_are_not_copied_once_more() -> None:
    digits = pictures.digits(3)
    tensor = {"name": "images", "datatype": "UINT8", "shape": digits.shape}
    inference = parse_inference(
        pb.ModelInferRequest(inputs=[tensor], raw_input_contents=[digits.tobytes()])
    )
    images = images_of(inference)

    np.testing.assert_array_equal(images, digits)
    assert isinstance(inference.images.values, memoryview)
    assert np.shares_memory(images, np.frombuffer(inference.images.values, np.uint8))


@given(
    said=st.fixed_dictionaries(
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
    said={
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, SIDE, SIDE]}],
        "raw_input_contents": [b""],
    }
)
def test_whatever_a_message_says_it_is_images_or_a_named_error(said: dict[str, object]) -> None:
    outcome = read(said)
    if isinstance(outcome, LoupeError):
        assert outcome.status in (400, 413, 422)
        assert "Expected " in outcome.message
    else:
        assert outcome.shape[1:] == (SIDE, SIDE)
