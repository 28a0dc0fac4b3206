"""Files that are damaged at the edges, hold several pictures, or have colours of their own."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from loupe.errors import InvalidImage
from loupe.images.decode import open_picture
from loupe.images.spec import ImageSpec, UInt8Array
from tests.support.files import reference
from tests.support.files.heif import grid
from tests.support.files.reference import GREY, RGB, chunk, coloured
from tests.support.files.tiffs import tiff
from tests.support.pictures import SIDE, encoded

MAX_PIXELS = 100_000
WIDE = GREY.astype(np.uint16)
BOTH = np.dstack([WIDE, WIDE])


def shown(data: bytes) -> UInt8Array:
    return np.asarray(open_picture(data, max_pixels=MAX_PIXELS).preview(SIDE))


def assert_refused(data: bytes, code: str, fact: str = "") -> None:
    with pytest.raises(InvalidImage) as raised:
        open_picture(data, max_pixels=MAX_PIXELS).pixels(ImageSpec("ink"), "off")
    assert raised.value.code == code
    assert fact in raised.value.message


# Damaged metadata


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(chunk(b"tEXt", b"a\0b")[:-1] + b"?", id="checksum of text"),
        pytest.param(chunk(b"pHYs", b"\0"), id="short resolution"),
        pytest.param(chunk(b"gAMA", b"\0"), id="short gamma"),
        pytest.param(chunk(b"cHRM", b"\0"), id="short chromaticities"),
        pytest.param(chunk(b"iCCP", b"a\0\1x"), id="profile of unknown compression"),
        pytest.param(chunk(b"iCCP", b"a\0\0broken"), id="broken profile"),
        pytest.param(
            chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), id="two megabytes of text"
        ),
        pytest.param(chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f"), id="broken EXIF"),
        pytest.param(chunk(b"tEXt", b"Raw profile type exif\0\nexif\n9\nzz"), id="broken hex"),
    ],
)
def test_damaged_optional_chunk_does_not_refuse_a_png_file(damaged: bytes) -> None:
    data = reference.png(GREY, 0, 8, chunk=damaged)

    np.testing.assert_array_equal(shown(data), coloured(GREY))


def test_orientation_survives_another_damaged_chunk() -> None:
    turned = reference.text_orientations(6)["EXIF"]
    data = reference.png(GREY, 0, 8, chunk=chunk(b"pHYs", b"\0") + turned)

    np.testing.assert_array_equal(shown(data), coloured(reference.upright(GREY, 6)))


def test_damaged_pixels_of_a_png_file_are_refused() -> None:
    data = bytearray(reference.png(GREY, 0, 8))
    data[data.index(b"IDAT") + 20] ^= 0xFF

    assert_refused(bytes(data), "invalid_image", "PNG")


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("metadata", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0??", b"Exif\0\0"])
def test_damaged_exif_does_not_refuse_a_picture(kind: str, metadata: bytes) -> None:
    grey = Image.new("L", (SIDE, SIDE), 90)

    assert shown(encoded(grey, kind, exif=metadata)).mean() == pytest.approx(90, abs=2)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("damaged", [b"????\0\0\0\x08", b"MM\0*\xff\xff\xff\xff"])
def test_damaged_exif_does_not_refuse_a_picture_in_heif(kind: str, damaged: bytes) -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    data = encoded(Image.new("L", (SIDE, SIDE), 90), kind, exif=exif.tobytes())
    assert (start := b"MM\0*\0\0\0\x08") in data

    assert shown(data.replace(start, damaged)).mean() == pytest.approx(90, abs=2)


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
@pytest.mark.parametrize("place", ["EXIF", "XMP", "XMP beside EXIF"])
def test_orientation_in_metadata_does_not_turn_heif(kind: str, place: str) -> None:
    exif = Image.Exif()
    exif[0x0113] = 6  # the encoders would use the tag before it, the orientation
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="1"/>'
    metadata = {"XMP": {"xmp": xmp}, "EXIF": {"exif": exif.tobytes()}}
    chosen = metadata.get(place, {"xmp": xmp, "exif": exif.tobytes()})
    plain = encoded(Image.fromarray(GREY), kind, **chosen)
    before, after = (
        (b"\x01\x13\0\3", b"\x01\x12\0\3") if place == "EXIF" else (b'ion="1"', b'ion="6"')
    )
    assert before in plain

    np.testing.assert_array_equal(shown(plain.replace(before, after)), shown(plain))


# Several pictures


def tiff_of(*kinds: int) -> bytes:
    """Return a TIFF file of pages that halve in size, each with its subfile type."""
    pages = [Image.fromarray(GREY).resize((SIDE >> n, SIDE >> n)) for n in range(len(kinds))]
    for page, kind in zip(pages, kinds, strict=True):
        page.encoderinfo = {"tiffinfo": {254: kind}}
    file = io.BytesIO()
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:], tiffinfo={254: kinds[0]})
    return file.getvalue()


def test_pyramid_is_one_picture() -> None:
    np.testing.assert_array_equal(shown(tiff_of(0, 1, 1)), coloured(GREY))


@pytest.mark.parametrize("kinds", [(0, 0), (2, 2), (0, 1, 0)])
def test_pages_are_several_pictures(kinds: tuple[int, ...]) -> None:
    assert_refused(tiff_of(*kinds), "animated_image")


def test_sequence_in_heif_is_not_one_picture() -> None:
    data = bytearray(encoded(Image.fromarray(RGB), "HEIF"))
    data[8:12] = b"msf1"

    assert_refused(bytes(data), "animated_image")


@pytest.mark.parametrize("tags", [{50706: (1, 4, 0, 0)}, {254: (1,), 330: (8,)}])
def test_preview_of_a_camera_raw_file_is_not_taken_for_the_photo(
    tags: dict[int, tuple[int, ...]],
) -> None:
    assert_refused(tiff(RGB, 2, tags=tags), "invalid_image", "camera RAW")


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        pytest.param(tiff(WIDE, bits=10), "10 bits", id="10 bits"),
        pytest.param(tiff(WIDE, bits=14), "14 bits", id="14 bits"),
        pytest.param(tiff((RGB / 255).astype(np.float32), 2), "32, 32, 32 bits", id="RGB floats"),
        pytest.param(tiff(BOTH, planar=True, tags={338: (2,)}), "apart", id="planes"),
        pytest.param(tiff(BOTH * 257, planar=True, tags={338: (2,)}), "apart", id="16-bit planes"),
    ],
)
def test_unreadable_kind_of_tiff_file_is_named(data: bytes, fact: str) -> None:
    assert_refused(data, "invalid_image", fact)


def test_tiles_of_a_phone_are_one_picture() -> None:
    picture = np.asarray(Image.fromarray(RGB).resize((240, 200)))
    seen = np.asarray(open_picture(grid(picture, 128), max_pixels=MAX_PIXELS).preview(240))

    assert np.abs(seen.astype(int) - picture).mean() < reference.LOSSY


# Numbers without a white


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, -9999, 1e20, -3.4e38, 9999])
def test_one_odd_value_does_not_flatten_a_picture_of_floats(odd: float) -> None:
    values = (GREY / 255).astype(np.float32)
    values[1, 1] = odd
    seen = shown(tiff(values)).astype(int)[..., 0]
    seen[1, 1] = GREY[1, 1]

    assert np.abs(seen - GREY).max() <= 1


def test_missing_values_of_elevations_do_not_flatten_them() -> None:
    metres = GREY.astype(np.int16) * 16
    metres[1, 1] = -9999
    seen = shown(tiff(metres)).astype(int)[..., 0]
    seen[1, 1] = GREY[1, 1]

    assert np.abs(seen - GREY).max() <= 1


# Colours


def curve(power: float) -> bytes:
    """Return a curve of an ICC profile. Source: ICC.1:2022, section 10.6."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(power * 256)) + bytes(2)


def xyz(*values: float) -> bytes:
    """Return a colour of an ICC profile. Source: ICC.1:2022, section 10.31."""
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def profile(
    space: bytes, tags: dict[bytes, bytes], device: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    """Return an ICC profile. Source: ICC.1:2010, sections 7.2 and 8.3."""
    tags = {b"wtpt": xyz(0.9642, 1, 0.8249), **tags}
    start, table, values = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(values), len(value))
        values += value
    header = struct.pack(
        ">I4sI4s4s4s", start + len(values), b"", 0x02400000, device, space, connection
    )
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + values


def table(colours: list[tuple[int, int, int]]) -> bytes:
    """Return the colours of all mixtures of four inks, each used fully or not at all.

    Source: ICC.1:2010, section 10.9. Lightness is 0 to 255; the others have their zero at 128.
    """
    identity = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    steps = bytes(range(256))
    cells = b"".join(map(bytes, colours))
    return b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + 4 * steps + cells + 3 * steps


DISPLAY_P3 = profile(
    b"RGB ",
    {
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve(2.2)),
    },
)
LINEAR_GREY = profile(b"GRAY", {b"kTRC": curve(1.0)})
# The first ink is red, the last one black, and the others are invisible.
WHITE, RED, BLACK = (255, 128, 128), (138, 209, 198), (0, 128, 128)
RED_INK = profile(
    b"CMYK", {b"A2B0": table([WHITE, BLACK] * 4 + [RED, BLACK] * 4)}, b"prtr", b"Lab "
)
FORMATS_WITH_PROFILES = ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"]


@pytest.mark.parametrize("kind", FORMATS_WITH_PROFILES)
def test_wide_colours_become_srgb(kind: str) -> None:
    # By the matrices of both: the same red takes a higher number in sRGB.
    picture = Image.new("RGB", (SIDE, SIDE), (180, 120, 90))
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = shown(encoded(picture, kind, icc_profile=DISPLAY_P3, **options)).mean(axis=(0, 1))

    np.testing.assert_allclose(seen, (190, 118, 85), atol=5)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_linear_grey_becomes_brighter(kind: str) -> None:
    data = encoded(Image.new("L", (SIDE, SIDE), 55), kind, icc_profile=LINEAR_GREY)

    assert shown(data).mean() == pytest.approx(127, abs=2)  # sRGB's curve of 55 / 255
    assert open_picture(data, max_pixels=MAX_PIXELS).pixels(
        ImageSpec("ink"), "off"
    ).mean() == pytest.approx(127, abs=2)


@pytest.mark.parametrize("kind", FORMATS_WITH_PROFILES)
def test_srgb_and_unfit_profiles_change_nothing(kind: str) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = encoded(Image.fromarray(RGB), kind)

    for icc_profile in (srgb, b"no profile", LINEAR_GREY):
        data = encoded(Image.fromarray(RGB), kind, icc_profile=icc_profile)
        np.testing.assert_array_equal(shown(data), shown(plain))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
@pytest.mark.parametrize("size", [(SIDE, SIDE), (600, 100)], ids=["small", "of several tiles"])
def test_inks_are_those_of_the_profile(kind: str, size: tuple[int, int]) -> None:
    for inks, seen, dark in (
        ((255, 0, 0, 0), (255, 0, 0), 76),
        ((0, 255, 255, 0), (255, 255, 255), 0),  # inverted, since it is light
        ((0, 0, 0, 255), (0, 0, 0), 0),
    ):
        data = encoded(Image.new("CMYK", size, inks), kind, icc_profile=RED_INK)
        picture = open_picture(data, max_pixels=MAX_PIXELS).preview(2 * SIDE)
        np.testing.assert_allclose(np.asarray(picture).mean(axis=(0, 1)), seen, atol=4)
        grey = open_picture(data, max_pixels=MAX_PIXELS).pixels(ImageSpec("object"))
        assert abs(int(grey[SIDE // 2, SIDE // 2]) - dark) <= 4


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_unfit_profile_does_not_change_inks(kind: str) -> None:
    inks = Image.new("CMYK", (SIDE, SIDE), (255, 0, 0, 0))

    for icc_profile in (DISPLAY_P3, b"no profile", RED_INK[:300]):
        data = encoded(inks, kind, icc_profile=icc_profile)
        np.testing.assert_array_equal(shown(data), shown(encoded(inks, kind)))


# HEIC without its package

WITHOUT_HEIF = """
import sys
sys.modules["pillow_heif"] = None
from loupe.images.decode import open_picture
from loupe.errors import InvalidImage
try:
    open_picture(sys.stdin.buffer.read(), max_pixels=10_000)
except InvalidImage as error:
    print(error.code, error.message)
"""


def test_missing_package_for_heic_names_its_extra() -> None:
    data = encoded(Image.fromarray(RGB), "HEIF")
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEIF], input=data, capture_output=True, check=True
    )

    assert b"invalid_image" in run.stdout
    assert b"heif" in run.stdout
