"""Formats are recognised by their first bytes."""

import gzip
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from loupe.images.formats import HEAD_BYTES, Format, format_of
from tests.support.pictures import encoded

GREY = Image.fromarray(np.arange(40 * 30, dtype=np.uint8).reshape(40, 30))


def boxed(*brands: bytes) -> bytes:
    """Return the start of an ISO base media file with a major brand and compatible ones."""
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", 4 + len(content)) + content + bytes(40)


def svgz() -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile("logo.svg", "wb", fileobj=file) as packed:
        packed.write(b"<svg/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(encoded(GREY, "PNG"), "PNG", id="PNG"),
        pytest.param(encoded(GREY, "JPEG"), "JPEG", id="JPEG"),
        pytest.param(encoded(GREY, "MPO"), "JPEG", id="MPO"),
        pytest.param(encoded(GREY, "WEBP"), "WebP", id="WebP"),
        pytest.param(encoded(GREY, "GIF"), "GIF", id="GIF"),
        pytest.param(encoded(GREY, "BMP"), "BMP", id="BMP"),
        pytest.param(encoded(GREY, "TIFF"), "TIFF", id="TIFF"),
        pytest.param(encoded(GREY, "TIFF", big_tiff=True), "TIFF", id="BigTIFF"),
        pytest.param(b"MM\0*" + bytes(9), "TIFF", id="big-endian TIFF"),
        pytest.param(encoded(GREY, "AVIF"), "AVIF", id="AVIF"),
        pytest.param(boxed(b"mif1", b"mif1", b"avif", b"miaf"), "AVIF", id="AVIF as mif1"),
        pytest.param(boxed(b"heic", b"mif1", b"heic"), "HEIC", id="HEIC"),
        pytest.param(boxed(b"mif1", b"mif1", b"heic"), "HEIC", id="HEIC as mif1"),
        pytest.param(encoded(GREY, "JPEG2000"), "JPEG 2000", id="JP2"),
        pytest.param(encoded(GREY, "JPEG2000", no_jp2=True), "JPEG 2000", id="J2K"),
        pytest.param(encoded(GREY, "ICO", sizes=[(16, 16)]), "ICO", id="ICO"),
        pytest.param(encoded(GREY, "PPM"), "PPM", id="PGM"),
        pytest.param(b"P2\n# made by\n# GIMP\n3 2\n255\n0 0 0", "PPM", id="PGM with comments"),
        pytest.param(encoded(GREY.convert("F"), "PPM"), "PPM", id="PFM"),
    ],
)
def test_formats_that_loupe_reads_are_recognised(data: bytes, name: str) -> None:
    assert format_of(data[:HEAD_BYTES]) == Format(name, is_read=True)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        pytest.param(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG", id="SVG"),
        pytest.param(b"<?xml version='1.0'?>\n<!-- a -->\n<svg>", "SVG", id="SVG after XML"),
        pytest.param(svgz(), "SVG (compressed)", id="SVGZ"),
        pytest.param(encoded(GREY, "PDF"), "PDF", id="PDF"),
        pytest.param(encoded(GREY, "EPS"), "EPS", id="EPS"),
        pytest.param(b"8BPS\0\1" + bytes(20), "PSD", id="PSD"),
        pytest.param(b"II*\0\x10\0\0\0CR\2\0", "camera RAW", id="CR2"),
        pytest.param(boxed(b"crx ", b"crx ", b"isom"), "camera RAW", id="CR3"),
        pytest.param(boxed(b"isom", b"isom", b"mp41"), "MP4 or QuickTime video", id="MP4"),
        pytest.param(boxed(b"qt  "), "MP4 or QuickTime video", id="QuickTime"),
        pytest.param(encoded(GREY, "PCX"), "PCX", id="PCX"),
        pytest.param(encoded(GREY, "SGI"), "SGI", id="SGI"),
        pytest.param(encoded(GREY, "DDS"), "DDS", id="DDS"),
        pytest.param(encoded(GREY, "ICNS"), "ICNS", id="ICNS"),
        pytest.param(b"\xff\x0a\xfa\x1f", "JPEG XL", id="JPEG XL"),
    ],
)
def test_other_formats_are_named(data: bytes, name: str) -> None:
    assert format_of(data[:HEAD_BYTES]) == Format(name, is_read=False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x89PN",
        b"BMW and Mercedes are cars",
        b"II. The second chapter",
        b"MMXXVI",
        b"P5 is a playground",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"<!DOCTYPE html><html><svg></svg>",
        b"path,label\na.png,boot\n",
        b"PK\3\4",
        bytes(2000),
    ],
    ids=repr,
)
def test_files_of_other_kinds_have_no_format(data: bytes) -> None:
    assert format_of(data[:HEAD_BYTES]) is None


@given(st.binary(max_size=2000))
def test_any_bytes_can_be_asked_for(data: bytes) -> None:
    format_of(data)
