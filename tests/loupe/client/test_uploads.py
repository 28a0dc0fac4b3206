"""What becomes of a caller's pictures before they are sent."""

import asyncio
import io
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from loupe.client.uploads import (
    Batch,
    Body,
    Packer,
    Source,
    Upload,
    as_file,
    form,
    prepare,
    prepare_or_tell,
)
from loupe.errors import InvalidImage, InvalidPixels, LoupeError
from loupe.images.spec import UInt8Array
from tests.support import pictures

DARK = pictures.digits(1)[0]
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)


def pixels(upload: Upload) -> UInt8Array:
    """What the service finds in it."""
    return np.asarray(Image.open(io.BytesIO(as_file(upload))))


def received(body: Body) -> list[bytes]:
    """The files of a form, as the service reads them."""

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body.content

    async def read() -> list[bytes]:
        data = await MultiPartParser(Headers({"content-type": body.media_type}), stream()).parse()
        files = [
            await each.read() for each in data.getlist("images") if isinstance(each, UploadFile)
        ]
        await data.close()
        return files

    return asyncio.run(read())


# One picture


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(DARK, id="grey, 28 x 28"),
        pytest.param(255 - DARK, id="grey on a light ground"),
        pytest.param(PHOTO, id="colours"),
        pytest.param(PHOTO[:, :, 0], id="grey, of another size"),
        pytest.param(PHOTO[::2, ::-1], id="a view with strides"),
        pytest.param(np.dstack([PHOTO, PHOTO[:, :, 0]]), id="colours and transparency"),
    ],
)
def test_an_array_and_its_image_are_sent_with_the_same_pixels(array: UInt8Array) -> None:
    for source in (array, Image.fromarray(array)):
        np.testing.assert_array_equal(pixels(prepare(source, "auto")), array)


def test_an_array_with_one_channel_is_grey() -> None:
    np.testing.assert_array_equal(prepare(DARK[:, :, None], "auto"), DARK)


def test_only_an_array_that_no_service_would_change_stays_an_array() -> None:
    assert isinstance(prepare(DARK, "auto"), np.ndarray)
    assert isinstance(prepare(255 - DARK, "auto"), bytes)
    assert isinstance(prepare(255 - DARK, "off"), np.ndarray)


def test_an_array_may_be_filled_anew_for_the_next_picture() -> None:
    frame = DARK.copy()
    sent = prepare(frame, "auto")
    frame[:] = 0

    np.testing.assert_array_equal(sent, DARK)


def test_files_are_sent_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(pictures.encoded(Image.fromarray(PHOTO), "JPEG"))

    assert (
        prepare(file, "auto")
        == prepare(str(file), "auto")
        == prepare(file.read_bytes(), "auto")
        == file.read_bytes()
    )


def test_an_image_lies_as_its_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.open(io.BytesIO(pictures.encoded(Image.fromarray(PHOTO), "JPEG", exif=exif)))

    assert pixels(prepare(lying, "auto")).shape == (30, 40, 3)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]
)
def test_images_of_every_mode_can_be_sent(mode: str) -> None:
    image = Image.new(mode, (30, 20)) if mode == "I;16" else Image.fromarray(PHOTO).convert(mode)

    assert pixels(prepare(image, "auto")).shape[:2] == image.size[::-1]


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        pytest.param(
            "nowhere.png",
            InvalidImage,
            "cannot be read: No such file or directory",
            id="file",
        ),
        pytest.param("a\0b", InvalidImage, "embedded null byte", id="no path"),
        pytest.param("/", InvalidImage, "This is not a regular file.", id="folder"),
        pytest.param(
            Image.open(io.BytesIO(pictures.png(PHOTO)[:-60])),
            InvalidImage,
            "cannot be decoded: ",
            id="damaged",
        ),
        pytest.param(DARK / 255, InvalidPixels, "float64, shape (28, 28)", id="fractions"),
        pytest.param(DARK[None], InvalidPixels, "uint8, shape (1, 28, 28)", id="many"),
        pytest.param(DARK[:0], InvalidPixels, "uint8, shape (0, 28)", id="nothing"),
        pytest.param(
            7,
            InvalidPixels,
            "a path, bytes, a NumPy array or a PIL image, not int",
            id="number",
        ),
    ],
)
def test_what_is_no_picture_is_told_before_it_is_sent(
    source: Source, error: type[LoupeError], text: str
) -> None:
    with pytest.raises(error) as raised:
        prepare(source, "auto")

    assert text in raised.value.message
    assert str(prepare_or_tell(source, "auto")) == raised.value.message


# Many pictures


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_a_form_carries_any_bytes_in_their_order(files: list[bytes]) -> None:
    assert received(form("images", files)) == files


@given(st.lists(st.binary(max_size=30), max_size=40), st.integers(1, 7), st.integers(1, 60))
def test_batches_hold_every_picture_once_and_no_more_than_their_share(
    files: list[bytes], most_images: int, most_bytes: int
) -> None:
    packer = Packer(most_images, most_bytes)
    batches = [batch for file in files if (batch := packer.add(file))]
    last = packer.rest()

    assert [
        file for batch in [*batches, *([last] if last else [])] for file in batch.items
    ] == files
    for batch in batches:
        sizes = [len(file) for file in batch.uploads if isinstance(file, bytes)]
        assert len(sizes) <= most_images
        assert sum(sizes[:-1]) < most_bytes


def test_arrays_alone_are_sent_as_one_array_and_with_others_as_files() -> None:
    images = pictures.digits(3)
    alone = Batch(list(images)).body()
    mixed = Batch([images[0], b"file", InvalidImage("nothing"), images[1]])

    np.testing.assert_array_equal(np.load(io.BytesIO(alone.content)), images)
    first, second, third = received(mixed.body())
    np.testing.assert_array_equal(pixels(first), images[0])
    assert second == b"file"
    np.testing.assert_array_equal(pixels(third), images[1])
