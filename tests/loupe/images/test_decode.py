"""Decoding: any picture becomes pixels, and any other bytes are refused."""

import functools
import io

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as runs
from hypothesis import strategies as st
from PIL import Image

from loupe.errors import InvalidImage
from loupe.images.decode import MAX_WHOLE_PIXELS, open_picture
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec, Look, UInt8Array
from tests.support import pictures
from tests.support.pictures import SIDE, digit_sheet, encoded, png

MAX_PIXELS = 1_000_000
LOOKS: tuple[Look, ...] = ("ink", "object")
FORMAT_MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("1", "L", "RGB", "CMYK"),
    "WEBP": ("L", "LA", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "AVIF": ("L", "RGB", "RGBA"),
    "HEIF": ("L", "RGB", "RGBA"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I", "F"),
    "ICO": ("L", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
}
KINDS = [(kind, mode) for kind, modes in FORMAT_MODES.items() for mode in modes]


def read(data: bytes, look: Look = "ink") -> UInt8Array:
    return open_picture(data, max_pixels=MAX_PIXELS).pixels(ImageSpec(look))


def assert_is_image(image: UInt8Array) -> None:
    assert image.dtype == np.uint8
    assert image.shape == (SIDE, SIDE)


# Any picture


def of_mode(values: UInt8Array, mode: str) -> Image.Image:
    """Return a picture of a mode, with some variety in every band."""
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32) * 7 - 300)
    rgb = Image.fromarray(np.stack([values, values[::-1], values[:, ::-1]], axis=2))
    if mode in ("LA", "RGBA"):
        picture = rgb.convert(mode)
        picture.putalpha(Image.fromarray(values))
        return picture
    return rgb.convert(mode)


@given(
    height=st.integers(2, 70),
    width=st.integers(2, 70),
    seed=st.integers(0, 99),
    kind_and_mode=st.sampled_from(KINDS),
    look=st.sampled_from(LOOKS),
)
def test_picture_of_any_size_mode_and_format_becomes_28_by_28_bytes(
    height: int, width: int, seed: int, kind_and_mode: tuple[str, str], look: Look
) -> None:
    kind, mode = kind_and_mode
    values = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)

    assert_is_image(read(encoded(of_mode(values, mode), kind), look))


@pytest.mark.parametrize(("kind", "mode"), KINDS)
def test_every_mode_and_format_can_be_read(kind: str, mode: str) -> None:
    values = np.full((40, 40), 255, np.uint8)
    values[10:30, 15:20] = 60

    assert_is_image(read(encoded(of_mode(values, mode), kind)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_without_loss_give_the_same_pixels(kind: str) -> None:
    sheet = Image.fromarray(digit_sheet())
    options = {"lossless": True} if kind == "WEBP" else {}

    np.testing.assert_array_equal(
        read(encoded(sheet, kind, **options)), normalize_pixels(digit_sheet(), ImageSpec("ink"))
    )


def test_jpeg_gives_nearly_the_same_pixels() -> None:
    sheet = Image.fromarray(
        np.kron(digit_sheet(), np.ones((12, 12), np.uint8))
    )  # large enough to be decoded smaller
    data = encoded(sheet, "JPEG", quality=95)
    difference = open_picture(data, max_pixels=10**8).pixels(ImageSpec("ink")).astype(
        int
    ) - normalize_pixels(digit_sheet(), ImageSpec("ink"))

    assert np.abs(difference).mean() < 6


# Any bytes


def outcome(data: bytes) -> UInt8Array | None:
    """Return the image, or `None` for `InvalidImage`; other errors and warnings fail the test."""
    try:
        return read(data)
    except InvalidImage:
        return None


@given(data=st.binary(max_size=200))
@example(data=b"\x89PNG\r\n\x1a\n")
@example(data=b"GIF89a")
@example(data=b"RIFF\x04\x00\x00\x00WEBP")
@example(data=b"BM" + bytes(60))
@example(data=b"II*\0\x08\0\0\0\xff\xff")
@example(data=b"MM\0*\0\0\0\x08\0\x01")
@example(data=b"\xff\xd8\xff\xe0\0\x10JFIF")
def test_random_bytes_are_refused_as_an_invalid_image(data: bytes) -> None:
    outcome(data)


@functools.cache
def whole_files() -> list[bytes]:
    """Return small files of every format and mode, written in different ways."""
    values = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(of_mode(values, mode), kind) for kind, mode in KINDS),
        *(
            encoded(of_mode(values, "RGB"), kind, exif=exif)
            for kind in ("PNG", "JPEG", "WEBP", "TIFF")
        ),
        *(
            encoded(of_mode(values, "L"), "TIFF", compression=name)
            for name in ("tiff_lzw", "tiff_deflate", "packbits")
        ),
        encoded(of_mode(values, "RGB"), "JPEG", progressive=True),
    ]


@runs(max_examples=500)
@given(which=st.integers(0, 1000), share=st.floats(0, 1))
def test_truncated_file_is_decoded_or_refused(which: int, share: float) -> None:
    data = whole_files()[which % len(whole_files())]

    outcome(data[: int(share * len(data))])


@runs(max_examples=1000)
@given(
    which=st.integers(0, 1000),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4
    ),
    in_head=st.booleans(),
)
def test_file_with_changed_bytes_is_decoded_or_refused(
    which: int, changes: list[tuple[float, int]], in_head: bool
) -> None:
    data = bytearray(whole_files()[which % len(whole_files())])
    reach = min(len(data), 100) if in_head else len(data)
    for place, change in changes:
        data[int(place * reach)] ^= change

    outcome(bytes(data))


BAD_IMAGES = [
    pytest.param(b"", "invalid_image", "empty", id="no bytes"),
    pytest.param(b"hello there", "invalid_image", "'hello there'", id="text"),
    pytest.param(b"<p>\n</p>", "invalid_image", r"'<p>\n</p>'", id="markup"),
    pytest.param(b"<svg>\n</svg>", "invalid_image", "SVG", id="SVG"),
    pytest.param(b"%PDF-1.7\n", "invalid_image", "PDF", id="PDF"),
    pytest.param(b"II*\0\x10\0\0\0CR\2\0", "invalid_image", "camera RAW", id="CR2"),
    pytest.param(b" https://example.com/a.png", "invalid_image", "URL", id="text of a URL"),
    pytest.param(b"\xfe\xff\x00" * 9, "invalid_image", "27 bytes", id="noise"),
    pytest.param(bytes(99), "invalid_image", "99 unreadable bytes", id="zeros"),
    pytest.param(encoded(Image.new("L", (9, 9)), "DDS"), "invalid_image", "DDS", id="DDS"),
    pytest.param(png(digit_sheet())[:-60], "invalid_image", "PNG", id="truncated PNG"),
    pytest.param(
        pictures.without_chunk(b"PLTE", encoded(Image.new("P", (28, 28)), "PNG")),
        "invalid_image",
        "no palette",
        id="PNG without its palette",
    ),
    pytest.param(
        pictures.huge_png(30_000),
        "image_too_large",
        "900,000,000 pixels. The limit is 1,000,000 (LOUPE_MAX_IMAGE_PIXELS)",
        id="PNG of 30,000 x 30,000",
    ),
    pytest.param(pictures.long_gif(10_000), "animated_image", "GIF", id="GIF of 10,000 frames"),
    pytest.param(png(np.zeros((1, 1), np.uint8)), "image_too_small", "1 × 1", id="one pixel"),
    pytest.param(png(np.zeros((1, 50), np.uint8)), "image_too_small", "50 × 1", id="one row"),
]


@pytest.mark.parametrize(("data", "code", "fact"), BAD_IMAGES)
def test_bad_image_is_refused_with_its_reason(data: bytes, code: str, fact: str) -> None:
    with pytest.raises(InvalidImage) as raised:
        read(data)

    assert (raised.value.code, raised.value.status) == (code, 422)
    assert fact in raised.value.message


@pytest.mark.parametrize("kind", ["PNG", "WebP", "TIFF", "GIF", "AVIF"])
def test_file_of_two_pictures_is_refused(kind: str) -> None:
    frames = [Image.new("RGB", (30, 30), color) for color in ("red", "blue")]
    file = io.BytesIO()
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])

    with pytest.raises(InvalidImage, match=kind) as raised:
        read(file.getvalue())
    assert raised.value.code == "animated_image"


def test_jpeg_with_an_appended_preview_is_one_picture() -> None:
    sheet = Image.fromarray(digit_sheet())
    file = io.BytesIO()
    sheet.save(file, "MPO", save_all=True, append_images=[sheet.resize((45, 60))])

    np.testing.assert_array_equal(read(file.getvalue()), read(encoded(sheet, "JPEG")))


# What a picture means


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_white_paper(kind: str) -> None:
    sheet = digit_sheet()
    rgba = np.zeros((*sheet.shape, 4), np.uint8)  # black all over, and seen only where there is ink
    rgba[..., 3] = 255 - sheet
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}

    np.testing.assert_array_equal(
        read(encoded(Image.fromarray(rgba), kind, **options)),
        normalize_pixels(sheet, ImageSpec("ink")),
    )


def test_transparent_palette_colour_is_white_paper() -> None:
    sheet = digit_sheet()
    palette = Image.fromarray((sheet == 255).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])  # both colours are black
    data = encoded(palette, "PNG", transparency=1)
    inked = np.where(sheet == 255, 255, 0).astype(np.uint8)

    np.testing.assert_array_equal(read(data), normalize_pixels(inked, ImageSpec("ink")))


def test_transparent_grey_is_white_paper() -> None:
    sheet = digit_sheet()
    on_seven = np.where(sheet == 255, 7, sheet).astype(np.uint8)

    np.testing.assert_array_equal(
        read(encoded(Image.fromarray(on_seven), "PNG", transparency=7)),
        normalize_pixels(sheet, ImageSpec("ink")),
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_preview_is_upright_in_colour_and_small(
    kind: str,
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (400, 200), (200, 30, 30))
    shown = open_picture(encoded(picture, kind, exif=exif), max_pixels=10**6).preview(100)

    assert (shown.mode, shown.size) == ("RGB", (50, 100))
    np.testing.assert_allclose(np.asarray(shown)[50, 25], (200, 30, 30), atol=6)


def test_preview_shows_transparency_on_white() -> None:
    clear = Image.new("RGBA", (8, 8), (200, 30, 30, 0))

    assert open_picture(encoded(clear, "PNG"), max_pixels=100).preview(100).getpixel((4, 4)) == (
        255,
        255,
        255,
    )


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "L"), ("PNG", "RGBA"), ("PNG", "I;16"), ("TIFF", "F"), ("GIF", "P")]
)
def test_large_pictures_shrink_without_changing_their_look(kind: str, mode: str) -> None:
    sheet = digit_sheet()
    large = of_mode(np.kron(sheet, np.ones((25, 25), np.uint8)), mode)
    assert large.width * large.height > MAX_WHOLE_PIXELS
    difference = open_picture(encoded(large, kind), max_pixels=10**8).pixels(
        ImageSpec("photo")
    ).astype(int) - read(encoded(of_mode(sheet, mode), kind), "photo")

    assert np.abs(difference).mean() < 4


def test_preview_of_a_damaged_picture_is_an_error() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40)).astype(np.uint8))
    with pytest.raises(InvalidImage, match="PNG"):
        open_picture(encoded(noise, "PNG")[:-400], max_pixels=10**6).preview(100)


def upright(values: UInt8Array, orientation: int) -> UInt8Array:
    """Return stored values as a viewer shows them. Source: EXIF 2.3, tag 0x0112."""
    turns = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.T,
        6: np.rot90(values, -1),
        7: values[::-1, ::-1].T,
        8: np.rot90(values),
    }
    return np.ascontiguousarray(turns[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "L"), ("PNG", "RGBA"), ("PNG", "I;16"), ("TIFF", "L"), ("WEBP", "RGBA")],
)
def test_picture_is_turned_by_its_exif_orientation(kind: str, mode: str, orientation: int) -> None:
    sheet = digit_sheet()
    exif = Image.Exif()
    exif[0x0112] = orientation
    if mode == "I;16":
        picture = Image.fromarray(sheet.astype(np.uint16) * 257)
    elif mode == "RGBA":
        picture = Image.fromarray(np.dstack([np.zeros((*sheet.shape, 3), np.uint8), 255 - sheet]))
    else:
        picture = Image.fromarray(sheet)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(picture, kind, exif=exif, **options)

    np.testing.assert_array_equal(
        read(data), normalize_pixels(upright(sheet, orientation), ImageSpec("ink"))
    )


def test_photo_is_turned_by_its_exif_orientation() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read(encoded(Image.fromarray(digit_sheet()), "JPEG", exif=exif, quality=95))
    expected = normalize_pixels(upright(digit_sheet(), 6), ImageSpec("ink"))

    assert np.abs(turned.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_read_as_their_upper_eight(kind: str) -> None:
    sheet = digit_sheet()
    sixteen = Image.fromarray(sheet.astype(np.uint16) * 257)

    np.testing.assert_array_equal(
        read(encoded(sixteen, kind)), normalize_pixels(sheet, ImageSpec("ink"))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.finfo(np.float32).max])
def test_nan_and_infinity_in_float_images_are_harmless(value: float) -> None:
    values = np.zeros((30, 30), np.float32)
    values[10:20, 10:20] = 5
    values[0, 0] = value

    assert_is_image(read(encoded(Image.fromarray(values), "TIFF")))
