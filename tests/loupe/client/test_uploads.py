"""Pictures of a caller, converted for sending."""

import asyncio
import io
import zipfile
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartParser

from loupe.client.jobs import uploadable
from loupe.client.uploads import (
    TIFF_MODES,
    Packer,
    PictureInput,
    Upload,
    UploadBatch,
    as_file,
    prepare,
    prepare_or_error,
)
from loupe.errors import InvalidImage, InvalidPixels, InvalidSource, LoupeError
from loupe.images.decode import open_picture
from loupe.images.spec import ImageSpec, UInt8Array
from tests.support import pictures
from tests.support.files import odd_folder

DARK = pictures.digits(1)[0]
PHOTO = np.random.default_rng(0).integers(0, 256, (40, 30, 3)).astype(np.uint8)


def pixels(upload: Upload) -> UInt8Array:
    """Decode an upload as the service does."""
    return np.asarray(Image.open(io.BytesIO(as_file(upload))))


def received(batch: UploadBatch) -> list[bytes]:
    """Parse the form of a batch as the service does."""
    request = httpx.Request("POST", "http://service", **batch.content())

    async def stream() -> AsyncGenerator[bytes, None]:
        yield request.read()

    async def read() -> list[bytes]:
        data = await MultiPartParser(Headers(dict(request.headers)), stream()).parse()
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
def test_array_and_its_image_send_the_same_pixels(array: UInt8Array) -> None:
    for source in (array, Image.fromarray(array)):
        np.testing.assert_array_equal(pixels(prepare(source, "auto")), array)


def test_array_with_one_channel_is_grey() -> None:
    np.testing.assert_array_equal(prepare(DARK[:, :, None], "auto"), DARK)


def test_arrays_are_sent_raw_only_if_the_service_would_not_change_them() -> None:
    assert isinstance(prepare(DARK, "auto"), np.ndarray)
    assert isinstance(prepare(255 - DARK, "auto"), bytes)
    assert isinstance(prepare(255 - DARK, "off"), np.ndarray)


def test_caller_can_refill_its_array() -> None:
    frame = DARK.copy()
    sent = prepare(frame, "auto")
    frame[:] = 0

    np.testing.assert_array_equal(sent, DARK)


def test_files_are_sent_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(pictures.encoded(Image.fromarray(PHOTO), "JPEG"))

    assert (
        prepare(file, "auto")
        == prepare(str(file), "auto")
        == prepare(file.read_bytes(), "auto")
        == file.read_bytes()
    )


def test_image_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.open(io.BytesIO(pictures.encoded(Image.fromarray(PHOTO), "JPEG", exif=exif)))
    lying.load()

    assert pixels(prepare(lying, "auto")).shape == (30, 40, 3)


def answer(upload: Upload) -> UInt8Array:
    return open_picture(as_file(upload), max_pixels=10**8).pixels(ImageSpec("object"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_opened_image_and_its_file_get_the_same_answer(kind: str, tmp_path: Path) -> None:
    large = Image.fromarray(PHOTO).resize((900, 700))
    path = tmp_path / "photo"
    path.write_bytes(pictures.encoded(large, kind))

    with Image.open(path) as image:
        sent = prepare(image, "auto")
        image.load()  # still possible
        assert sent == path.read_bytes()
    np.testing.assert_array_equal(answer(sent), answer(prepare(path, "auto")))


def test_changed_image_is_sent_as_it_is_now() -> None:
    image = Image.open(io.BytesIO(pictures.encoded(Image.fromarray(PHOTO), "PNG")))
    image.paste((1, 2, 3), (0, 0, 30, 40))

    assert (pixels(prepare(image, "auto")) == (1, 2, 3)).all()


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "PA", "La", "RGBa", "I;16B", "I", "F"])
def test_loaded_image_and_its_file_look_the_same(mode: str) -> None:
    grey = pictures.digits(1, seed=3)[0]
    values = {"I;16B": grey.astype(">u2") * 257, "I": grey.astype(np.int32), "F": grey / 255}
    if mode in values:
        image = Image.fromarray(values[mode].astype(np.float32) if mode == "F" else values[mode])
    elif mode in ("CMYK", "LAB"):
        image = Image.fromarray(np.dstack([grey, grey, grey] + [grey] * (mode == "CMYK")), mode)
    else:
        opaque = Image.fromarray(grey).convert({"La": "LA", "PA": "P"}.get(mode, "RGBA"))
        image = opaque.convert(mode)
    file = pictures.encoded(image, "TIFF") if mode in TIFF_MODES else pictures.png(grey)

    difference = answer(prepare(image, "auto")).astype(int) - answer(file)
    assert np.abs(difference).max() <= 2


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
            "nowhere.png",
            id="file",
        ),
        pytest.param("a\0b", InvalidImage, "null", id="no path"),
        pytest.param("/", InvalidImage, "folder", id="folder"),
        pytest.param(
            Image.open(
                io.BytesIO(
                    pictures.encoded(
                        Image.fromarray(PHOTO),
                        "PNG",
                        save_all=True,
                        append_images=[Image.fromarray(255 - PHOTO)],
                    )[:400]
                )
            ),
            InvalidImage,
            "decoded",
            id="damaged",
        ),
        pytest.param(DARK / 255, InvalidPixels, "float64, shape (28, 28)", id="fractions"),
        pytest.param(DARK[None], InvalidPixels, "uint8, shape (1, 28, 28)", id="many"),
        pytest.param(DARK[:0], InvalidPixels, "uint8, shape (0, 28)", id="nothing"),
        pytest.param(
            7,
            InvalidPixels,
            "int",
            id="number",
        ),
    ],
)
def test_invalid_pictures_are_refused_before_sending(
    source: PictureInput, error: type[LoupeError], text: str
) -> None:
    with pytest.raises(error) as raised:
        prepare(source, "auto")

    assert text in raised.value.message
    assert str(prepare_or_error(source, "auto")) == raised.value.message


# Many pictures


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
def test_form_carries_any_bytes_in_order(files: list[bytes]) -> None:
    assert received(UploadBatch(files)) == files


@given(st.lists(st.binary(max_size=30), max_size=40), st.integers(1, 7), st.integers(1, 60))
def test_batches_contain_each_picture_once_and_stay_within_their_limits(
    files: list[bytes], max_images: int, max_bytes: int
) -> None:
    packer = Packer(max_images, max_bytes)
    batches = [batch for file in files if (batch := packer.add(file))]
    last = packer.flush()

    assert [
        file for batch in [*batches, *([last] if last else [])] for file in batch.items
    ] == files
    for batch in batches:
        sizes = [len(file) for file in batch.uploads if isinstance(file, bytes)]
        assert len(sizes) <= max_images
        assert sum(sizes[:-1]) < max_bytes


def test_arrays_are_sent_as_one_array_unless_files_are_among_them() -> None:
    images = pictures.digits(3)
    alone = UploadBatch(list(images)).content()
    mixed = UploadBatch([images[0], b"file", InvalidImage("nothing"), images[1]])

    np.testing.assert_array_equal(np.load(io.BytesIO(alone["content"])), images)
    first, second, third = received(mixed)
    np.testing.assert_array_equal(pixels(first), images[0])
    assert second == b"file"
    np.testing.assert_array_equal(pixels(third), images[1])


# Folders


def test_pictures_of_a_folder_are_archived_and_other_files_counted(tmp_path: Path) -> None:
    expected = odd_folder.write(tmp_path / "images")

    with uploadable(tmp_path / "images") as upload, zipfile.ZipFile(upload.file) as archive:
        assert set(archive.namelist()) == expected.read | expected.failed
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "images" / name).read_bytes()
    assert upload.skipped == expected.skipped


def test_folder_without_pictures_is_refused_with_what_was_skipped(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")

    with pytest.raises(InvalidSource, match=r"\.txt 1"), uploadable(tmp_path):
        pass


def test_only_table_of_a_folder_without_pictures_is_sent(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "test.parquet").write_bytes(b"PAR1")
    (tmp_path / "README.md").write_text("text")
    (tmp_path / ".git").touch()

    with uploadable(tmp_path) as upload:
        assert upload.file == tmp_path / "data" / "test.parquet"
        assert upload.skipped == {"not_a_table": {".md": 1}, "hidden": {"none": 1}}
    (tmp_path / "data" / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(InvalidSource, match="2 Parquet files"), uploadable(tmp_path):
        pass
