"""One picture in many formats, modes, depths and orders, and what each must look like."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.images.spec import UInt8Array
from tests.support.files import tiffs
from tests.support.files.tiffs import DEFLATE, UNCOMPRESSED, tiff
from tests.support.pictures import SIDE, encoded

Options: TypeAlias = dict[str, Any]
Values: TypeAlias = NDArray[Any]

LOSSY = 6.0  # mean difference, in levels, of formats that lose some


class Case(NamedTuple):
    """A file, and the pixels that a viewer shows.

    Attributes:
        name: Of the format and its kind.
        data: The file.
        pixels: uint8 `(28, 28, 3)`.
        tolerance: Mean difference, in levels.
    """

    name: str
    data: bytes
    pixels: UInt8Array
    tolerance: float = 1.0


def grey_picture() -> UInt8Array:
    """Return a picture without symmetry that has black, white and all between."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    picture: UInt8Array = (columns * 6 + rows * 3).astype(np.uint8)
    picture[:4, :9], picture[20:, 24:] = 0, 255
    return picture


GREY = grey_picture()
RGB = np.dstack([GREY, 255 - GREY, GREY.T])
ALPHA = np.flipud(GREY)
PALETTE = np.dstack([np.arange(256), 255 - np.arange(256), np.arange(256) // 2])[0]
WIDE: Values = GREY.astype(np.uint32)  # does not overflow when it is scaled


def coloured(grey: Values) -> UInt8Array:
    """Return grey as RGB."""
    coloured: UInt8Array = np.repeat(grey[..., np.newaxis], 3, axis=2).astype(np.uint8)
    return coloured


def on_white(picture: Values, alpha: Values = ALPHA) -> UInt8Array:
    """Return a picture, grey or RGB, drawn on white."""
    colours = picture if picture.ndim == 3 else coloured(picture)
    share = alpha[..., np.newaxis] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def upright(values: UInt8Array, orientation: int) -> UInt8Array:
    """Return stored values as a viewer shows them. Source: EXIF 2.3, tag 0x0112."""
    across = values.swapaxes(0, 1)
    turned: dict[int, UInt8Array] = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: across,
        6: np.rot90(values, -1),
        7: across[::-1, ::-1],
        8: np.rot90(values),
    }
    return np.ascontiguousarray(turned[orientation])


def cases() -> list[Case]:
    """Return the table."""
    kinds = (png_cases, tiff_cases, other_cases, lossy_cases, oriented_cases)
    return [case for kind in kinds for case in kind()]


def png_cases() -> Iterator[Case]:
    """Yield PNG files of every colour type, depth and interlacing."""
    for interlaced in (False, True):
        way = "interlaced" if interlaced else "plain"
        for bits in (1, 2, 4, 8, 16):
            most = 2**bits - 1
            values = WIDE * most // 255
            shown = coloured(np.rint(values * (255 / most)))
            yield Case(f"PNG grey {bits} {way}", png(values, 0, bits, interlaced), shown)
            clear = int(values[14, 14])
            seen = on_white(shown, 255 * (values != clear))
            file = png(values, 0, bits, interlaced, struct.pack(">H", clear))
            yield Case(f"PNG grey {bits} with a clear colour {way}", file, seen)
        for bits in (1, 2, 4, 8):
            values = WIDE >> (8 - bits)
            shown = PALETTE.astype(np.uint8)[values]
            yield Case(f"PNG palette {bits} {way}", png(values, 3, bits, interlaced), shown)
            alphas = bytes(255 - 70 * entry for entry in range(2))
            seen = on_white(shown, np.where(values < 2, 255 - 70 * values, 255))
            file = png(values, 3, bits, interlaced, alphas)
            yield Case(f"PNG palette {bits} with alpha {way}", file, seen)
        for bits in (8, 16):
            scale = 257 if bits == 16 else 1
            colours, alpha = RGB.astype(np.uint32) * scale, ALPHA.astype(np.uint32) * scale
            grey = WIDE * scale
            yield Case(f"PNG RGB {bits} {way}", png(colours, 2, bits, interlaced), RGB)
            clear = colours[14, 14]
            seen = on_white(RGB, 255 * (colours != clear).any(axis=2))
            file = png(colours, 2, bits, interlaced, struct.pack(">3H", *map(int, clear)))
            yield Case(f"PNG RGB {bits} with a clear colour {way}", file, seen)
            file = png(np.dstack([colours, alpha]), 6, bits, interlaced)
            yield Case(f"PNG RGBA {bits} {way}", file, on_white(RGB))
            file = png(np.dstack([grey, alpha]), 4, bits, interlaced)
            yield Case(f"PNG grey and alpha {bits} {way}", file, on_white(GREY))


def tiff_cases() -> Iterator[Case]:
    """Yield TIFF files of every kind of value, order, compression and division."""
    for order in ("<", ">"):
        for compression in (UNCOMPRESSED, DEFLATE):
            for tile in (None, 16):
                way = f"{order} {'deflate' if compression == DEFLATE else 'plain'}" + (
                    " tiled" if tile else ""
                )
                for name, pixels, photometric, options, shown in tiff_kinds():
                    data = tiff(
                        pixels,
                        photometric,
                        order=order,
                        compression=compression,
                        tile=tile,
                        **options,
                    )
                    yield Case(f"TIFF {name} {way}", data, shown)


def tiff_kinds() -> Iterator[tuple[str, Values, int, Options, UInt8Array]]:
    """Yield values, their photometric interpretation, options of `tiff`, and what is seen."""
    sixteen, colours, alpha = WIDE * 257, RGB.astype(np.uint32) * 257, ALPHA.astype(np.uint32) * 257
    grey = coloured(GREY)
    for bits in (1, 2, 4, 8, 12, 16, 32):
        dtype = np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32
        most = 2**bits - 1
        values: Values = np.rint(GREY / 255 * most).astype(dtype)
        shown = coloured(np.rint(values / most * 255))
        yield f"grey {bits}", values, tiffs.BLACK_IS_ZERO, {"bits": bits}, shown
        yield f"inverted {bits}", most - values, tiffs.WHITE_IS_ZERO, {"bits": bits}, shown
    signed = GREY.astype(np.int32)
    yield "signed 8", (signed - 128).astype(np.int8), 1, {}, grey
    yield "signed 16", (signed * 100 - 9000).astype(np.int16), 1, {}, grey
    yield "signed 32", signed * 9000 - 90_000, 1, {}, grey
    yield "small numbers of 32", WIDE, 1, {}, grey
    yield "float 16", (GREY / 255).astype(np.float16), 1, {}, grey
    yield "float 32", (GREY / 255).astype(np.float32), 1, {}, grey
    yield "float 64", GREY / 255, 1, {}, grey
    yield "inverted float", (1 - GREY / 255).astype(np.float32), 0, {}, grey
    yield "float to 255", GREY.astype(np.float32), 1, {}, grey
    missing = np.where(GREY == 0, -5, GREY / 255).astype(np.float32)
    yield "float with missing values", missing, 1, {"tags": {42113: b"-5\0"}}, grey
    yield "RGB 8", RGB, tiffs.RGB, {}, RGB
    yield "RGB 16", colours.astype(np.uint16), tiffs.RGB, {}, RGB
    yield "RGB 8 planar", RGB, tiffs.RGB, {"planar": True}, RGB
    yield "RGB 16 planar", colours.astype(np.uint16), tiffs.RGB, {"planar": True}, RGB
    rgba, rgba16 = np.dstack([RGB, ALPHA]), np.dstack([colours, alpha]).astype(np.uint16)
    straight: Options = {"tags": {338: (2,)}}
    multiplied: Options = {"tags": {338: (1,)}}
    yield "RGBA 8", rgba, tiffs.RGB, straight, on_white(RGB)
    yield "RGBA 16", rgba16, tiffs.RGB, straight, on_white(RGB)
    faded = np.rint(RGB * (ALPHA[..., np.newaxis] / 255)).astype(np.uint8)
    yield "RGBA multiplied", np.dstack([faded, ALPHA]), tiffs.RGB, multiplied, on_white(RGB)
    yield "RGB and something", rgba, tiffs.RGB, {"tags": {338: (0,)}}, RGB
    yield "grey and alpha 8", np.dstack([GREY, ALPHA]), 1, straight, on_white(GREY)
    both = np.dstack([sixteen, alpha]).astype(np.uint16)
    yield "grey and alpha 16", both, 1, straight, on_white(GREY)
    faded = np.rint(GREY * (ALPHA / 255)).astype(np.uint8)
    yield "grey and alpha multiplied", np.dstack([faded, ALPHA]), 1, multiplied, on_white(GREY)
    inks = np.dstack([255 - RGB, np.zeros_like(GREY)])
    yield "CMYK 8", inks, tiffs.CMYK, {}, RGB
    yield "CMYK 16", inks.astype(np.uint16) * 257, tiffs.CMYK, {}, RGB
    entries = tuple(int(value) for value in PALETTE.T.ravel())
    shown = PALETTE.astype(np.uint8)[GREY]
    yield "palette", GREY, tiffs.PALETTE, {"tags": {320: tuple(257 * v for v in entries)}}, shown
    yield "palette of bytes", GREY, tiffs.PALETTE, {"tags": {320: entries}}, shown
    lab = np.dstack([GREY, np.zeros((SIDE, SIDE, 2), np.uint8)])
    yield "LAB", lab, tiffs.LAB, {}, coloured(grey_of_lightness(GREY / 255 * 100))


def grey_of_lightness(lightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return sRGB levels. Source: CIE 15:2018, equation 8.9 ff.; IEC 61966-2-1, section 5.2."""
    scaled = (lightness + 16) / 116
    linear = np.where(lightness > 8, scaled**3, lightness / 903.3)
    curved = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    levels: NDArray[np.float64] = np.rint(255 * curved)
    return levels


def other_cases() -> Iterator[Case]:
    """Yield formats without loss."""
    rgba = Image.fromarray(np.dstack([RGB, ALPHA]))
    grey, colour = Image.fromarray(GREY), Image.fromarray(RGB)
    palette = Image.fromarray(GREY, "P")
    palette.putpalette(PALETTE.astype(np.uint8).tobytes())
    shown = PALETTE.astype(np.uint8)[GREY]
    exact: Options = {"lossless": True, "exact": True}
    yield Case("WebP lossless", encoded(colour, "WEBP", **exact), RGB)
    yield Case("WebP lossless with alpha", encoded(rgba, "WEBP", **exact), on_white(RGB))
    yield Case("GIF grey", encoded(grey, "GIF"), coloured(GREY))
    yield Case("GIF palette", encoded(palette, "GIF"), shown)
    clear = int(GREY[14, 14])
    file = encoded(palette, "GIF", transparency=clear)
    yield Case("GIF with a clear colour", file, on_white(shown, np.where(clear == GREY, 0, 255)))
    for mode, picture in (("1", grey.convert("1")), ("L", grey), ("P", palette), ("RGB", colour)):
        seen = np.asarray(picture.convert("RGB"))
        yield Case(f"BMP {mode}", encoded(picture, "BMP"), seen)
        yield Case(f"ICO {mode}", encoded(picture, "ICO", sizes=[(SIDE, SIDE)]), seen)
        if mode != "P":
            yield Case(f"PPM {mode}", encoded(picture, "PPM"), seen)
    yield Case("BMP with unused bytes", bmp(0, with_masks=False), RGB)
    yield Case("BMP with bytes that are no alpha", bmp(9, with_masks=False), RGB)
    yield Case("BMP with unused alpha", bmp(0, with_masks=True), RGB)
    yield Case("ICO RGBA", encoded(rgba, "ICO", sizes=[(SIDE, SIDE)]), on_white(RGB))
    words = (WIDE * 257).astype(">u2").tobytes()
    yield Case("PGM 16", b"P5 28 28 65535\n" + words, coloured(GREY))
    text = " ".join(map(str, RGB.ravel())).encode()
    yield Case("PPM in text", b"P3\n# a comment\n28 28\n255\n" + text, RGB)
    floats = (GREY[::-1] / 255).astype("<f4").tobytes()
    yield Case("PFM", b"Pf\n28 28\n-1.0\n" + floats, coloured(GREY))
    yield Case("JPEG 2000 grey", encoded(grey, "JPEG2000"), coloured(GREY))
    yield Case("JPEG 2000 RGB", encoded(colour, "JPEG2000"), RGB)
    yield Case("JPEG 2000 RGBA", encoded(rgba, "JPEG2000"), on_white(RGB))
    yield Case("JPEG 2000 codestream", encoded(colour, "JPEG2000", no_jp2=True), RGB)
    sixteen = Image.fromarray((WIDE * 257).astype(np.uint16))
    yield Case("JPEG 2000 grey 16", encoded(sixteen, "JPEG2000"), coloured(GREY))


def lossy_cases() -> Iterator[Case]:
    """Yield formats with loss."""
    smooth = np.dstack([GREY, 255 - GREY, GREY])  # chroma is stored at half the size
    picture, opaque = Image.fromarray(smooth), Image.fromarray(GREY)
    inks = Image.fromarray(np.dstack([255 - smooth, np.zeros_like(GREY)]), "CMYK")
    best: Options = {"quality": 98, "subsampling": 0}
    images: list[tuple[str, Image.Image, Options]] = [
        ("grey", opaque, {}),
        ("YCbCr", picture, {}),
        ("RGB", picture, {"keep_rgb": True}),
        ("progressive", picture, {"progressive": True}),
        ("CMYK", inks, {}),
    ]
    for name, image, options in images:
        seen = coloured(GREY) if image is opaque else smooth
        yield Case(f"JPEG {name}", encoded(image, "JPEG", **best, **options), seen, LOSSY)
    rgba = Image.fromarray(np.dstack([smooth, ALPHA]))
    for kind, options in (
        ("WEBP", {}),
        ("AVIF", {"subsampling": "4:4:4"}),
        ("HEIF", {"chroma": 444}),
    ):
        data = encoded(picture, kind, quality=98, **options)
        yield Case(f"{kind} with loss", data, smooth, LOSSY)
        data = encoded(rgba, kind, quality=98, **options)
        yield Case(f"{kind} with loss and alpha", data, on_white(smooth), LOSSY)
    yield Case("HEIF grey", encoded(opaque, "HEIF", quality=98), coloured(GREY), LOSSY)


def oriented_cases() -> Iterator[Case]:
    """Yield every orientation in every place that formats have for it."""
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, mode, options, tolerance in (
            ("PNG", "L", {}, 1.0),
            ("PNG", "RGB", {}, 1.0),
            ("WEBP", "RGB", {"lossless": True}, 1.0),
            ("TIFF", "L", {}, 1.0),
            ("TIFF", "RGB", {}, 1.0),
            ("JPEG", "L", {"quality": 98}, LOSSY),
            ("AVIF", "L", {"quality": 98}, LOSSY),
            ("HEIF", "L", {"quality": 98}, LOSSY),
        ):
            stored = RGB if mode == "RGB" else GREY
            data = encoded(Image.fromarray(stored), kind, exif=exif.tobytes(), **options)
            shown = upright(stored, orientation)
            seen = shown if mode == "RGB" else coloured(shown)
            yield Case(f"{kind} {mode} turned {orientation}", data, seen, tolerance)
        for name, extra in text_orientations(orientation).items():
            for stored, colour_type in ((GREY, 0), (RGB, 2)):
                shown = upright(stored, orientation)
                seen = shown if colour_type else coloured(shown)
                for after in (False, True):
                    data = png(stored, colour_type, 8, chunk=extra, after=after)
                    place = "after the pixels" if after else "before the pixels"
                    yield Case(f"PNG {colour_type} {name} {orientation} {place}", data, seen)


def text_orientations(orientation: int) -> dict[str, bytes]:
    """Return chunks of a PNG file that name an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    raw = exif.tobytes()
    profile = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="{orientation}"/>'.encode()
    return {
        "EXIF": chunk(b"eXIf", raw.removeprefix(b"Exif\0\0")),
        "ImageMagick": chunk(b"tEXt", b"Raw profile type exif\0" + profile),
        "old ImageMagick": chunk(b"zTXt", b"Raw profile type APP1\0\0" + zlib.compress(profile)),
        "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp),
    }


def png(
    values: Values,
    colour_type: int,
    bits: int,
    interlaced: bool = False,
    transparency: bytes = b"",
    chunk: bytes = b"",
    *,
    after: bool = False,
) -> bytes:
    """Return a PNG file with a further chunk before or after the pixels."""
    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    rows = b"".join(
        _png_rows(values[top::down, left::right], bits) for left, top, right, down in passes
    )
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header)]
    if colour_type == 3:
        parts.append(_chunk(b"PLTE", PALETTE[: 2**bits].astype(np.uint8).tobytes()))
    if transparency:
        parts.append(_chunk(b"tRNS", transparency))
    pixels = _chunk(b"IDAT", zlib.compress(rows))
    parts += [pixels, chunk] if after else [chunk, pixels]
    return b"".join([*parts, _chunk(b"IEND", b"")])


# Left, top, steps to the right and down. Source: PNG, third edition, section 8.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
ADAM7 += [(0, 1, 1, 2)]


def _png_rows(values: Values, bits: int) -> bytes:
    dtype = np.dtype(">u2") if bits == 16 else np.dtype(np.uint8)
    rows: Values = values.astype(dtype).reshape(len(values), -1)
    if bits < 8:
        fields = np.unpackbits(rows[..., np.newaxis], axis=2)[:, :, -bits:]
        rows = np.packbits(fields.reshape(len(values), -1), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in rows)


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


_chunk = chunk  # `png` has an argument of the same name


def bmp(fourth: int, *, with_masks: bool) -> bytes:
    """Return a BMP file of 32 bits; the fourth byte of a pixel is alpha only if masks say so."""
    last = np.full((SIDE, SIDE), fourth, np.uint8)
    pixels = np.dstack([RGB[..., ::-1], last])[::-1].tobytes()
    size = 108 if with_masks else 40
    info = struct.pack("<IiiHHIIiiII", size, SIDE, SIDE, 1, 32, 3 * with_masks, 0, 0, 0, 0, 0)
    if with_masks:
        info += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    start = 14 + len(info)
    return struct.pack("<2sIII", b"BM", start + len(pixels), 0, start) + info + pixels
