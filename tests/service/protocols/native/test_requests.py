"""Requests of the native protocol without a server: images or a named error, whatever the bytes."""

import asyncio
import io
import json
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from loupe.errors import (
    ContentTooLarge,
    InvalidPixels,
    InvalidRequest,
    LoupeError,
    UnsupportedMediaType,
)
from loupe.images.spec import ImageSpec, Normalize, UInt8Array
from loupe.settings import Settings
from service.prediction.caller import Caller
from service.prediction.decoding import DecodedImages, Decoders, Preparation
from service.protocols.native.requests import read_batch, read_image
from tests.support import pictures
from tests.support.pictures import SIDE

SETTINGS = Settings(max_images_per_request=64, max_body_bytes=100_000)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["image", "images", "pixels"]), inner)
    ),
    max_leaves=12,
)


def image_of(
    body: bytes, media_type: str | None = None, normalize: Normalize = "auto"
) -> UInt8Array:
    preparation = Preparation(ImageSpec("ink"), normalize, Caller.within(10), Decoders(Settings()))
    return asyncio.run(read_image(body, media_type, SETTINGS, preparation))


def batch_of(body: bytes, media_type: str | None = None) -> DecodedImages:
    preparation = Preparation(ImageSpec("ink"), "auto", Caller.within(10), Decoders(Settings()))
    return asyncio.run(read_batch(body, media_type, SETTINGS, preparation))


def refusal(
    read: Callable[..., UInt8Array | DecodedImages], *arguments: object
) -> LoupeError | None:
    """Return the `LoupeError`, if there is one; others fail the test."""
    try:
        read(*arguments)
    except LoupeError as error:
        return error
    return None


def npy(images: UInt8Array, version: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, images, version)
    return file.getvalue()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")  # NumPy prefers the oldest
def test_every_version_of_npy_is_read(version: tuple[int, int]) -> None:
    images = pictures.digits(3)

    np.testing.assert_array_equal(batch_of(npy(images, version)).images, images)


@pytest.mark.parametrize(
    "media_type", ["IMAGE/PNG", "image/png; charset=binary", "application/octet-stream", None]
)
def test_image_type_is_detected_from_the_bytes(media_type: str | None) -> None:
    image = pictures.digits(1)[0]

    np.testing.assert_array_equal(image_of(pictures.png(image), media_type), image)
    np.testing.assert_array_equal(
        image_of(pictures.encoded(Image.fromarray(image), "BMP"), media_type), image
    )


@pytest.mark.parametrize(
    "media_type", ["text/html", "application/x-www-form-urlencoded", "", ";", "multipart/mixed"]
)
def test_other_content_types_are_refused(media_type: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=f"'{media_type.rstrip(';')}'"):
        image_of(b"x", media_type)


def test_booleans_are_not_pixels() -> None:
    mask = {"pixels": (pictures.digits(1)[0] > 0).tolist()}
    with pytest.raises(InvalidPixels, match=r"0\.0: .*got False"):
        image_of(json.dumps(mask).encode(), "application/json")


def test_long_text_among_pixels_takes_no_extra_memory() -> None:
    pixels: list[list[object]] = [[0] * SIDE for _ in range(SIDE)]
    pixels[0][0] = "x" * 90_000  # NumPy would make an array of 784 such texts, 4 bytes a character
    body = json.dumps({"pixels": pixels}).encode()
    tracemalloc.start()
    try:
        error = refusal(image_of, body, "application/json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert isinstance(error, InvalidPixels)
    assert "0.0: " in error.message
    assert len(error.message) < 300
    assert peak < 20 * len(body)


def test_errors_of_a_batch_keep_their_index() -> None:
    good = {"pixels": pictures.digits(1)[0].tolist()}
    batch = batch_of(json.dumps({"images": [None, good, "!", good]}).encode(), "application/json")

    assert len(batch) == 4
    assert batch.images.shape == (2, SIDE, SIDE)
    assert sorted(batch.errors) == [0, 2]
    assert {error.code for error in batch.errors.values()} == {"invalid_image"}


@given(value=JSON_VALUES)
@example(value={"images": [[[]]]})
@example(value={"pixels": [[[0] * 28] * 28] * 28})
def test_any_json_gives_images_or_a_named_error(value: object) -> None:
    body = json.dumps(value).encode()
    for read in (image_of, batch_of):
        error = refusal(read, body, "application/json")
        assert error is None or (error.status in (400, 413, 422) and len(error.message) < 500)


@given(
    shape=st.lists(st.integers(-3, 2**66) | st.sampled_from([0, 1, 28]), max_size=5).map(tuple),
    dtype=st.sampled_from(
        ["|u1", "<u2", "|V0", "|S0", "|O", "<f8", "|b1", "<M8[s]", "nonsense", "|u1,|u1"]
    ),
    values=st.binary(max_size=20) | st.just(bytes(SIDE * SIDE)),
)
def test_any_npy_header_gives_images_or_a_named_error(
    shape: tuple[int, ...], dtype: str, values: bytes
) -> None:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values
    error = refusal(batch_of, body)
    if error is None:
        assert (dtype, shape[0], len(values)) == ("|u1", 1, SIDE * SIDE)
        assert {*shape[1:]} - {1} in ({SIDE}, {SIDE * SIDE})
    else:
        assert error.status in (400, 422)


@given(
    header=st.text("{}()[]'\",: \n0123456789descrfotan_hpTu|", max_size=80),
    version=st.integers(0, 4),
)
@example(header="(" * 80, version=1)
@example(header="{'descr': (), 'fortran_order': False, 'shape': ()}", version=1)
@pytest.mark.filterwarnings(
    "ignore::SyntaxWarning", "ignore::DeprecationWarning", "ignore:Reading `.npy`:UserWarning"
)
def test_damaged_npy_header_is_refused(header: str, version: int) -> None:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    with pytest.raises(LoupeError):
        batch_of(b"\x93NUMPY" + bytes([version, 0]) + size + header.encode())


@given(
    body=st.binary(min_size=1, max_size=300),
    boundary=st.sampled_from(["x", "", '"', "x" * 300, "\xff"]),
)
@example(
    body=b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\xff\r\n--x--', boundary="x"
)
@example(body=b"--x\r\n\r\nabc\r\n--x--", boundary="x")
def test_any_form_gives_images_or_a_named_error(body: bytes, boundary: str) -> None:
    for read in (image_of, batch_of):
        error = refusal(read, body, f"multipart/form-data; boundary={boundary}")
        assert error is None or error.status in (400, 413, 422)


@pytest.mark.parametrize(
    ("before", "headers"),
    [
        ("", 'Content-Disposition: form-data; name="image"; filename="a.png"'),
        ("preamble\r\n", "content-disposition:form-data;name=image;filename=a"),
        ("", "Content-Type: image/png\r\nContent-Disposition: form-data; name=image"),
        ("", 'Content-Disposition: form-data; name="image"; filename="é"\r\nX: y'),
    ],
)
@pytest.mark.parametrize("charset", ["", "; charset=punycode"])
def test_every_spelling_of_a_form_is_read(before: str, headers: str, charset: str) -> None:
    image = pictures.digits(1)[0]
    other = "--x\r\nContent-Disposition: form-data; name=token\r\n\r\nabc\r\n"
    head = f"{before}{other}--x \r\n{headers}\r\n\r\n".encode()
    body = head + pictures.png(image) + b"\r\n--x--\r\nepilogue"

    np.testing.assert_array_equal(
        image_of(body, f'multipart/form-data; boundary="x"{charset}'), image
    )


@pytest.mark.parametrize(
    "body",
    [
        b"--x\r\nContent-Disposition: form-data; name=image\r\n\r\nabc",
        b"--x\r\nContent-Disposition: form-data; name=image\r\n",
        b"--xy\r\nContent-Disposition: form-data; name=image\r\n\r\nabc\r\n--x--",
        b"--x\r\nA: " + bytes(20_000) + b"\r\n\r\nabc\r\n--x--",
    ],
)
def test_damaged_form_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="damaged"):
        image_of(body, "multipart/form-data; boundary=x")


def test_form_with_too_many_parts_is_refused_as_too_many_images() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\na\r\n'
    with pytest.raises(ContentTooLarge, match="LOUPE_MAX_IMAGES_PER_REQUEST") as refused:
        batch_of(part * 66 + b"--x--", "multipart/form-data; boundary=x")
    assert refused.value.code == "too_many_images"


def test_unknown_fields_of_json_are_refused_with_those_that_exist() -> None:
    with pytest.raises(InvalidRequest, match=r"'picture'.*image, pixels"):
        image_of(b'{"picture": ""}', "application/json")


def test_picture_is_unchanged_without_normalization() -> None:
    light = 255 - pictures.digits(1)[0]

    np.testing.assert_array_equal(image_of(pictures.png(light), normalize="off"), light)
    assert (image_of(pictures.png(light)) != light).any()


def test_picture_of_another_size_needs_normalization() -> None:
    larger = pictures.png(np.zeros((28, 30), np.uint8))
    with pytest.raises(InvalidPixels, match="30 × 28"):
        image_of(larger, normalize="off")
