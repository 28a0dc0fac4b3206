"""Facts from headers: sizes, costs, and which pictures are tiny."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loupe.errors import InvalidImage
from loupe.images.header import (
    BYTES_PER_PIXEL,
    check_header,
    check_segments,
    estimated_bytes,
    estimated_cost,
    is_tiny,
)
from tests.support.files import bombs
from tests.support.pictures import digits, encoded, png

MAX_PIXELS = 1_000_000
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM"]


@pytest.mark.parametrize("kind", FORMATS)
def test_too_large_pictures_are_refused_by_their_header(kind: str) -> None:
    data = encoded(Image.new("RGB", (1500, 700)), kind)

    with pytest.raises(InvalidImage) as raised:
        check_header(data, MAX_PIXELS)
    assert raised.value.code == "image_too_large"
    assert "1,500 × 700 = 1,050,000" in raised.value.message


@pytest.mark.parametrize(
    ("kind", "factor"), [("AVIF", 2), ("HEIF", 2), ("JPEG2000", 4)], ids=["AVIF", "HEIC", "JP2"]
)
def test_formats_that_take_more_memory_may_have_fewer_pixels(kind: str, factor: int) -> None:
    data = encoded(Image.new("RGB", (200, 100)), kind)

    check_header(data, factor * 20_000)
    assert estimated_bytes(data, MAX_PIXELS) == factor * BYTES_PER_PIXEL * 20_000
    with pytest.raises(InvalidImage) as raised:
        check_header(data, factor * 20_000 - 1)
    assert raised.value.code == "image_too_large"


def test_icon_has_the_size_of_its_largest_picture() -> None:
    small_claim = bytearray(encoded(Image.new("RGB", (64, 64)), "ICO", sizes=[(64, 64)]))
    header = small_claim.index(b"IHDR")
    small_claim[header + 4 : header + 12] = struct.pack(">II", 50_000, 50_000)

    with pytest.raises(InvalidImage) as raised:
        check_header(bytes(small_claim), MAX_PIXELS)
    assert raised.value.code == "image_too_large"


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_may_have_half_the_pixels(mode: str, lossless: bool) -> None:
    half = Image.new(mode, (1000, 500), (1, 2, 3, 4)[: len(mode)])
    more = Image.new(mode, (1000, 501), (1, 2, 3, 4)[: len(mode)])

    check_header(encoded(half, "WEBP", lossless=lossless), MAX_PIXELS)
    with pytest.raises(InvalidImage, match="500,000"):
        check_header(encoded(more, "WEBP", lossless=lossless), MAX_PIXELS)


def test_webp_of_few_bytes_is_refused_before_memory_is_allocated() -> None:
    with pytest.raises(InvalidImage) as raised:
        check_header(bombs.flat_webp(12_000, 4_100), 50_000_000)
    assert raised.value.code == "image_too_large"


def test_bmp_of_many_runs_is_refused_by_its_header() -> None:
    check_header(bombs.bmp_of_runs(1700), 50_000_000)
    with pytest.raises(InvalidImage) as raised:
        check_header(bombs.bmp_of_runs(2200), 50_000_000)
    assert raised.value.code == "image_too_costly"


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PNG", "PPM"])
def test_estimate_grows_with_the_pixels(kind: str) -> None:
    data = encoded(Image.new("L", (300, 200)), kind)

    assert estimated_bytes(data, MAX_PIXELS) == BYTES_PER_PIXEL * 300 * 200
    assert estimated_bytes(data, 500) == BYTES_PER_PIXEL * 500


@pytest.mark.parametrize("kind", FORMATS)
def test_metadata_costs_more_than_the_pixels_of_a_photo(kind: str) -> None:
    small = encoded(Image.new("L", (64, 64)), kind) + bytes(2 * 2**20)
    photo = encoded(Image.new("RGB", (1200, 800)), "JPEG")

    assert estimated_cost(small, MAX_PIXELS) > estimated_cost(photo, MAX_PIXELS)


def test_photos_cost_less_than_progressive_jpeg_and_webp_of_their_size() -> None:
    picture = Image.new("RGB", (300, 200))
    photo = encoded(picture, "JPEG")
    others = [encoded(picture, "JPEG", progressive=True), encoded(picture, "WEBP")]

    assert all(
        estimated_bytes(photo, MAX_PIXELS) < estimated_bytes(other, MAX_PIXELS) for other in others
    )


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bombs.jpeg_with_segments(b"\xff\xe5\0\2", 1_000_000), id="empty APP5"),
        pytest.param(bombs.jpeg_with_segments(b"\xff\xe1\0\x08Exif\0\0", 100_000), id="EXIF"),
        pytest.param(bombs.jpeg_with_segments(b"\xff\xfe\0\3x", 100_000), id="comments"),
        pytest.param(bombs.jpeg_with_segments(b"\xff\xc4\0\2", 100_000), id="empty tables"),
        pytest.param(bombs.jpeg_with_segments(b"\xff", 1_000_000), id="padding"),
        pytest.param(bombs.jpeg_with_segments(b"\xff\0", 100_000), id="escaped bytes"),
        pytest.param(bombs.jpeg_with_scans(100, 1_000), id="scans"),
        pytest.param(bombs.jpeg_with_separate_scans(100, 1_000), id="scans of one colour"),
    ],
)
def test_jpeg_of_many_parts_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage) as raised:
        check_segments(data)
    assert raised.value.code == "image_too_costly"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": bytes(60_000)}])
def test_common_jpeg_files_have_few_parts(options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 300, 3), dtype=np.uint8)

    check_segments(encoded(Image.fromarray(noise), "JPEG", **options))


def png_with_chunk(kind: bytes, content: bytes, count: int = 1) -> bytes:
    data = png(digits(1)[0])
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    chunk = struct.pack(">I", len(content)) + kind + content + checksum
    return data[:33] + chunk * count + data[33:]


TEXT = zlib.compress(bytes(1_000_000))


@pytest.mark.parametrize(
    ("data", "tiny"),
    [
        pytest.param(png(digits(1)[0]), True, id="PNG"),
        pytest.param(encoded(Image.new("RGBA", (64, 64)), "PNG"), True, id="transparent PNG"),
        pytest.param(encoded(Image.new("L", (28, 28)), "JPEG"), True, id="JPEG"),
        pytest.param(png_with_chunk(b"tEXt", b"Title\0boot"), True, id="text"),
        pytest.param(encoded(Image.new("L", (65, 64)), "PNG"), False, id="more pixels"),
        pytest.param(encoded(Image.new("L", (65, 64)), "JPEG"), False, id="JPEG of more pixels"),
        pytest.param(png_with_chunk(b"tEXt", b"a\0b", 40), False, id="many chunks"),
        pytest.param(png_with_chunk(b"tEXt", b"a\0" + bytes(20_000)), False, id="many bytes"),
        pytest.param(png_with_chunk(b"zTXt", b"a\0\0" + TEXT), False, id="packed text"),
        pytest.param(png_with_chunk(b"iTXt", b"a\0\1\0\0\0" + TEXT), False, id="packed Unicode"),
        pytest.param(png_with_chunk(b"iCCP", b"a\0\0" + TEXT), False, id="profile"),
        pytest.param(bombs.jpeg_with_segments(b"\xff\xe5\0\2", 40), False, id="many segments"),
        pytest.param(encoded(Image.new("L", (28, 28)), "TIFF"), False, id="TIFF"),
        pytest.param(encoded(Image.new("L", (28, 28)), "WEBP"), False, id="WebP"),
    ],
)
def test_tiny_pictures_are_small_plain_png_and_jpeg_files(data: bytes, tiny: bool) -> None:
    assert is_tiny(data) is tiny


@given(data=st.binary(max_size=80), kind=st.sampled_from(FORMATS), cut=st.integers(0, 200))
def test_headers_of_damaged_files_are_read_without_errors(data: bytes, kind: str, cut: int) -> None:
    whole = encoded(Image.new("L", (30, 20)), kind)

    for damaged in (whole[:cut] + data, data):
        is_tiny(damaged)
        estimated_bytes(damaged, MAX_PIXELS)
        try:
            check_header(damaged, MAX_PIXELS)
            check_segments(damaged)
        except InvalidImage:
            pass
