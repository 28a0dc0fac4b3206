"""File formats, recognised by their first bytes: those that Loupe reads, and others by name."""

import re
from typing import Final, NamedTuple

HEAD_BYTES: Final = 1024  # enough for all formats; comments may precede the root of an SVG file


class Format(NamedTuple):
    """A file format, and whether Loupe reads it as a picture."""

    name: str
    is_read: bool


READ: Final = (
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("JPEG", rb"\xff\xd8\xff"),
    ("WebP", rb"RIFF.{4}WEBP"),
    ("GIF", rb"GIF8[79]a"),
    # A number that is the size of the second header follows the first one.
    ("BMP", rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    # Version 43 is BigTIFF. Some programs write the version in the other byte order.
    ("TIFF", rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0"),
    # The first brand, or one of those that a file is compatible with.
    ("AVIF", rb".{4}ftyp(avi[fs]|m[is]f1.{4}(.{4}){0,12}?avi[fs])"),
    ("HEIC", rb".{4}ftyp(he[iv][cmsx]|m[is]f1|.{8}(.{4}){0,12}?(heic|mif1))"),
    ("JPEG 2000", rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    ("ICO", rb"\0\0\x01\0[^\0]\0.{3}\0"),
    ("PPM", rb"P[1-6Ff]\s(#[^\n]*\n|\s)*\d+\s(#[^\n]*\n|\s)*\d+\s"),
)
NOT_READ: Final = (
    ("SVG", rb"(\xef\xbb\xbf)?\s*<(svg[\s>]|(\?xml|!--|!DOCTYPE svg).*?<(svg:)?svg[\s>])"),
    ("SVG (compressed)", rb"\x1f\x8b.{8}[^\0]{1,80}\.svg\0"),
    ("PDF", rb"%PDF-"),
    ("EPS", rb"%!PS|\xc5\xd0\xd3\xc6"),
    ("PSD", rb"8BPS"),
    ("XCF", rb"gimp xcf "),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG XR", rb"II\xbc"),
    ("DICOM", rb".{128}DICM"),
    ("FITS", rb"SIMPLE  ="),
    ("OpenEXR", rb"\x76\x2f\x31\x01"),
    ("Radiance HDR", rb"#\?(RADIANCE|RGBE)"),
    ("DDS", rb"DDS "),
    ("DjVu", rb"AT&TFORM"),
    ("ICNS", rb"icns"),
    ("QOI", rb"qoif"),
    ("PCX", rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]"),
    ("SGI", rb"\x01\xda[\0\x01][\x01\x02]"),
    ("PAM", rb"P7\n"),
    ("XPM", rb"/\* XPM \*/"),
    ("WMF or EMF", rb"\xd7\xcd\xc6\x9a|\x01\0\0\0.{36} EMF"),
    ("MP4 or QuickTime video", rb".{4}(ftyp|moov|mdat)"),
    ("AVI video", rb"RIFF.{4}AVI "),
    ("Matroska or WebM video", rb"\x1a\x45\xdf\xa3"),
    ("MPEG video", rb"\0\0\x01[\xba\xb3]"),
    ("WMV video", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
)
# Comes first, since many start like a TIFF file.
RAW: Final = (
    ("camera RAW", rb"II\*\0.{4}CR|IIU\0|IIR[OS]|MMOR|FUJIFILMCCD-RAW|FOVb|\0MRM|.{4}ftypcrx "),
)
PATTERNS: Final = tuple(
    (Format(name, is_read), re.compile(pattern, re.DOTALL))
    for table, is_read in ((RAW, False), (READ, True), (NOT_READ, False))
    for name, pattern in table
)


def format_of(head: bytes) -> Format | None:
    """Return the format of a file, or `None` for an unknown one.

    Args:
        head: The first `HEAD_BYTES` of the file, or all of a smaller one.
    """
    for known, pattern in PATTERNS:
        if pattern.match(head, 0, HEAD_BYTES):
            return known
    return None
