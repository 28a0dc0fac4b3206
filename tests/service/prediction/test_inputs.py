"""Reading requests without a server: whatever the bytes, images come out or a named error does."""

import asyncio
import io
import json
import threading
import tracemalloc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message

from loupe.errors import LoupeError
from loupe.images.decode import Picture, open_picture
from loupe.images.spec import SIDE, UInt8Array
from loupe.old_errors.service import (
    BodyTooLarge,
    BodyTooSlow,
    CallerGone,
    DeadlineExceeded,
    InvalidRequest,
    TooManyBytes,
    UnsupportedMediaType,
)
from loupe.settings import Settings
from service.http.bodies import MOST_OF_THE_LONGEST, Bodies
from service.http.options import Normalize
from service.prediction import inputs
from service.prediction.caller import Caller
from service.prediction.inputs import Batch, Preparation, decode_all, read_batch, read_image
from tests.support import pictures
from tests.support.garbage import uncollected
from tests.support.programs import until

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


def request(body: bytes, media_type: str | None, length: str | None) -> Request:
    """A request whose body comes in pieces."""
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)] or [b""]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    headers = [(b"content-type", media_type), (b"content-length", length)]
    raw = [(name, value.encode()) for name, value in headers if value is not None]
    return Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw},
        receive,
    )


def image_of(
    body: bytes,
    media_type: str | None = None,
    length: str | None = None,
    normalize: Normalize = "auto",
) -> UInt8Array:
    async def read() -> UInt8Array:
        came = request(body, media_type, length)
        return await read_image(
            await Bodies(SETTINGS).read(came),
            came.headers,
            SETTINGS,
            Preparation("ink", normalize, Caller.within(10)),
        )

    return asyncio.run(read())


def batch_of(
    body: bytes,
    media_type: str | None = None,
    length: str | None = None,
    normalize: Normalize = "auto",
) -> Batch:
    async def read() -> Batch:
        came = request(body, media_type, length)
        return await read_batch(
            await Bodies(SETTINGS).read(came),
            came.headers,
            SETTINGS,
            Preparation("ink", normalize, Caller.within(10)),
        )

    return asyncio.run(read())


def refusal(read: Callable[..., UInt8Array | Batch], *arguments: object) -> LoupeError | None:
    """The error that Loupe names, if it does; any other goes on to the test."""
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
@pytest.mark.filterwarnings(
    "ignore:Stored array in format:UserWarning"
)  # NumPy would choose an older version itself
def test_every_version_of_npy_is_read(version: tuple[int, int]) -> None:
    images = pictures.digits(3)

    np.testing.assert_array_equal(batch_of(npy(images, version)).images, images)


@pytest.mark.parametrize(
    "media_type", ["IMAGE/PNG", "image/png; charset=binary", "application/octet-stream", None]
)
def test_an_image_body_is_read_by_its_bytes_and_not_by_its_name(media_type: str | None) -> None:
    image = pictures.digits(1)[0]

    np.testing.assert_array_equal(image_of(pictures.png(image), media_type), image)
    np.testing.assert_array_equal(
        image_of(pictures.encoded(Image.fromarray(image), "BMP"), media_type), image
    )


def test_a_body_without_a_length_is_counted_as_it_comes() -> None:
    with pytest.raises(
        BodyTooLarge, match=r"^Expected a body of at most 100,000 bytes \(LOUPE_MAX_BODY_BYTES\)\."
    ):
        image_of(bytes(100_001), "image/png")


@pytest.mark.parametrize("length", ["-1", "many", "100001", "1e3", ""])
def test_a_length_that_cannot_be_is_refused_before_anything_is_read(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        image_of(b"x", "image/png", length)


@pytest.mark.parametrize(
    "media_type", ["text/html", "application/x-www-form-urlencoded", "", ";", "multipart/mixed"]
)
def test_other_content_types_are_named_in_the_refusal(media_type: str) -> None:
    with pytest.raises(
        UnsupportedMediaType, match=f"Received: Content-Type '{media_type.rstrip(';')}'\\.$"
    ):
        image_of(b"x", media_type)


def test_a_mask_is_no_image() -> None:
    """True and false would pass for 1 and 0: hardly any ink at all."""
    mask = {"pixels": (pictures.digits(1)[0] > 0).tolist()}
    error = refusal(image_of, json.dumps(mask).encode(), "application/json")

    assert error is not None
    assert error.message.endswith("Received: row 0 with boolean in column 0.")


def test_a_long_text_among_pixels_takes_no_more_memory_than_it_is_long() -> None:
    pixels: list[list[object]] = [[0] * SIDE for _ in range(SIDE)]
    pixels[0][0] = "x" * 90_000  # NumPy would make an array of 784 such texts, 4 bytes a character
    body = json.dumps({"pixels": pixels}).encode()
    tracemalloc.start()
    try:
        error = refusal(image_of, body, "application/json")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert error is not None
    assert error.message.endswith("Received: row 0 with string in column 0.")
    assert peak < 20 * len(body)


def test_errors_of_a_batch_keep_their_places() -> None:
    good = {"pixels": pictures.digits(1)[0].tolist()}
    batch = batch_of(json.dumps({"images": [None, good, "!", good]}).encode(), "application/json")

    assert len(batch) == 4
    assert batch.images.shape == (2, SIDE, SIDE)
    assert sorted(batch.errors) == [0, 2]
    assert "base64 text, not null" in batch.errors[0].message


@given(value=JSON_VALUES)
@example(value={"images": [[[]]]})
@example(value={"pixels": [[[0] * 28] * 28] * 28})
def test_whatever_the_json_images_come_out_or_a_named_error(value: object) -> None:
    body = json.dumps(value).encode()
    for read in (image_of, batch_of):
        error = refusal(read, body, "application/json")
        assert error is None or error.status in (400, 413, 422)


@given(
    shape=st.lists(st.integers(-3, 2**66) | st.sampled_from([0, 1, 28]), max_size=5).map(tuple),
    dtype=st.sampled_from(
        ["|u1", "<u2", "|V0", "|S0", "|O", "<f8", "|b1", "<M8[s]", "nonsense", "|u1,|u1"]
    ),
    values=st.binary(max_size=20) | st.just(bytes(SIDE * SIDE)),
)
def test_whatever_an_npy_header_promises_it_is_images_or_a_named_error(
    shape: tuple[int, ...], dtype: str, values: bytes
) -> None:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + values
    error = refusal(batch_of, body)
    if error is None:
        assert (dtype, shape, len(values)) == ("|u1", (1, SIDE, SIDE), SIDE * SIDE)
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
def test_whatever_an_npy_header_says_it_ends_in_a_named_error(header: str, version: int) -> None:
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
def test_whatever_a_form_holds_it_ends_in_a_named_error(body: bytes, boundary: str) -> None:
    for read in (image_of, batch_of):
        error = refusal(read, body, f"multipart/form-data; boundary={boundary}")
        assert error is None or error.status in (400, 413, 422)


@pytest.mark.parametrize("alphabet", ["punycode", "undefined"])
def test_a_form_in_an_alphabet_that_does_not_fit_is_refused(alphabet: str) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a:b"\r\n\r\na\r\n--x--'
    with pytest.raises(InvalidRequest, match="a form in an alphabet that does not fit"):
        image_of(body, f"multipart/form-data; boundary=x; charset={alphabet}")


def test_a_form_with_too_many_parts_is_refused_as_too_many_images() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\na\r\n'
    with pytest.raises(
        InvalidRequest, match=r"^Expected at most 64 images in one request .* Received: 65\.$"
    ):
        batch_of(part * 66 + b"--x--", "multipart/form-data; boundary=x")


def test_a_picture_is_taken_as_it_is_where_that_is_asked_for() -> None:
    light = 255 - pictures.digits(1)[0]

    np.testing.assert_array_equal(image_of(pictures.png(light), normalize="off"), light)
    assert (image_of(pictures.png(light)) != light).any()


def test_a_picture_of_another_size_cannot_be_taken_as_it_is() -> None:
    larger = pictures.png(np.zeros((28, 30), np.uint8))
    error = refusal(lambda: image_of(larger, normalize="off"))

    assert error is not None
    assert error.message == "Without normalizing, a picture must have 28 × 28 pixels, not 30 × 28."


@pytest.mark.parametrize("others_wait", [False, True])
def test_the_decoder_of_a_photo_lets_others_go_if_they_wait(
    monkeypatch: pytest.MonkeyPatch, others_wait: bool
) -> None:
    pauses: list[str] = []
    monkeypatch.setattr(
        inputs, "_let_others_go", lambda: pauses.append(threading.current_thread().name)
    )
    sheet = pictures.encoded(Image.fromarray(np.tile(pictures.digits(1)[0], (4, 4))), "JPEG")
    headers = Headers({"content-type": "image/jpeg"})

    asyncio.run(
        read_image(
            sheet,
            headers,
            SETTINGS,
            Preparation("ink", "auto", Caller.within(10), lambda: others_wait),
        )
    )
    assert bool(pauses) is others_wait
    assert all(name.startswith("decode") for name in pauses)


def test_the_pictures_of_who_has_gone_are_not_decoded() -> None:
    large = [pictures.png(np.full((100, 100), 255, np.uint8))] * 3
    looks = iter([False, True])  # who goes while the first one is decoded
    gone = Caller.within(10, lambda: next(looks))

    with pytest.raises(CallerGone):
        asyncio.run(decode_all(large, SETTINGS, Preparation("ink", "auto", gone)))
    assert list(looks) == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Picture]]:
    """The pictures that are opened from now on, as long as somebody has them."""
    noted: list[weakref.ref[Picture]] = []

    def open_and_note(data: bytes, *, max_pixels: int) -> Picture:
        picture = open_picture(data, max_pixels=max_pixels)
        noted.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(inputs, "open_picture", open_and_note)
    return noted


def test_a_picture_that_waits_longer_than_its_caller_is_refused_in_time_and_never_decoded(
    opened: list[weakref.ref[Picture]],
) -> None:
    large = pictures.png(np.full((100, 100), 255, np.uint8))
    headers = Headers({"content-type": "image/png"})
    begun, go_on = threading.Semaphore(0), threading.Event()
    taken_up: list[str] = []

    def hold() -> bool:
        begun.release()
        return not go_on.wait(30)

    def take_up() -> bool:
        taken_up.append("late")
        return False

    async def read(caller: Caller) -> UInt8Array:
        return await read_image(large, headers, SETTINGS, Preparation("ink", "auto", caller))

    async def story() -> None:
        early = [
            asyncio.create_task(read(Caller.within(30, hold))) for _ in range(2)
        ]  # one for each decoder
        for _ in early:
            await asyncio.to_thread(begun.acquire)
        with pytest.raises(DeadlineExceeded):
            await read(Caller.within(0.05, take_up))
        assert opened[-1]() is None  # though both decoders are busy still
        go_on.set()
        assert [image.shape for image in await asyncio.gather(*early)] == [(28, 28)] * 2
        assert (await read(Caller.within(30))).shape == (28, 28)  # behind it, had it stayed

    with uncollected():
        asyncio.run(story())
        until(lambda: all(picture() is None for picture in opened))
    assert taken_up == []


def test_nothing_is_kept_of_a_picture_whose_decoding_fails(
    opened: list[weakref.ref[Picture]],
) -> None:
    def fail() -> bool:
        raise MemoryError

    async def story() -> None:
        failing = Preparation("ink", "auto", Caller.within(10, fail))
        try:
            await read_image(large, Headers({"content-type": "image/png"}), SETTINGS, failing)
        except MemoryError:
            pass
        else:
            raise AssertionError("it should have failed")

    large = pictures.png(np.full((100, 100), 255, np.uint8))
    with uncollected():
        asyncio.run(story())
        until(lambda: opened[0]() is None)  # the decoder lets go of it a moment later


def test_who_goes_while_the_body_comes_is_called_gone() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    going = Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}, receive
    )
    with pytest.raises(CallerGone):
        asyncio.run(Bodies(SETTINGS).read(going))


def test_a_body_that_does_not_come_to_its_end_is_not_waited_for() -> None:
    parts = iter([b"half of "])

    async def receive() -> Message:
        for part in parts:
            return {"type": "http.request", "body": part, "more_body": True}
        await asyncio.sleep(30)
        raise AssertionError("nobody should have waited so long")

    slow = Request({"type": "http", "method": "POST", "headers": [], "query_string": b""}, receive)

    with pytest.raises(
        BodyTooSlow, match=r"Expected the whole body within 0.05 s\. Received: 8 bytes of it\."
    ):
        asyncio.run(Bodies(SETTINGS).read(slow, limit_seconds=0.05))


def test_who_is_cancelled_while_the_body_comes_is_cancelled() -> None:
    async def receive() -> Message:
        await asyncio.sleep(30)
        raise AssertionError("nobody should have waited so long")

    async def cancelled() -> None:
        waiting = Request(
            {"type": "http", "method": "POST", "headers": [], "query_string": b""}, receive
        )
        reading = asyncio.create_task(Bodies(SETTINGS).read(waiting))
        await asyncio.sleep(0)
        reading.cancel()
        await reading

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_all_bodies_together_have_room_for_so_many_bytes_until_their_requests_are_answered() -> (
    None
):
    bodies = Bodies(SETTINGS)
    held = [request(bytes(100_000), None, None) for _ in range(MOST_OF_THE_LONGEST)]
    late = request(b"x", None, None)

    async def story() -> None:
        for each in held:
            await bodies.read(each)
        with pytest.raises(
            TooManyBytes, match=r"at most 800,000 bytes at a time, all requests together"
        ):
            await bodies.read(late)
        bodies.release(late.scope)
        bodies.release(held[0].scope)
        bodies.release(held[0].scope)  # what has been released takes no room any more
        assert len(await bodies.read(request(bytes(100_000), None, None))) == 100_000
        with pytest.raises(TooManyBytes):
            await bodies.read(request(b"x", None, None))

    asyncio.run(story())
