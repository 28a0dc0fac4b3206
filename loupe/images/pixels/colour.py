"""Colours that are not sRGB: those of ICC profiles, and CIE L*a*b*."""

import io
from functools import lru_cache
from typing import Final

import numpy as np
from PIL import Image, ImageCms

SRGB_TOLERANCE = 3  # levels that a profile may differ from sRGB without being applied
# Pillow's modes by colour space. Source: ICC.1:2022, table 19.
MODES: Final = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
COLOURS: Final = frozenset({"RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "YCbCr"})
OTHERS: Final = frozenset({"CMYK", "LAB"})


def to_srgb(image: Image.Image) -> ImageCms.ImageCmsTransform | None:
    """Return what converts a picture to sRGB, or `None` if that would change nothing.

    Its `input_mode` is the mode that a picture must have before.
    """
    stored = "RGB" if image.mode in COLOURS else image.mode if image.mode in OTHERS else "L"
    profile = image.info.get("icc_profile")
    if stored == "LAB":
        return _transform(None, stored)
    return _transform(profile, stored) if isinstance(profile, bytes) else None


@lru_cache(maxsize=8)  # the pictures of a set usually have the same profile
def _transform(profile: bytes | None, stored: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of a profile; `None` if it is damaged or describes other colours."""
    try:
        source = ImageCms.ImageCmsProfile(
            ImageCms.createProfile("LAB") if profile is None else io.BytesIO(profile)
        )
        if MODES.get(source.profile.xcolor_space.strip()) != stored:
            return None
        transform = ImageCms.ImageCmsTransform(
            source,
            ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
            stored,
            "RGB",
            intent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    return None if _changes_little(transform) else transform


def _changes_little(transform: ImageCms.ImageCmsTransform) -> bool:
    """Return whether a transform leaves RGB or grey as it is."""
    if transform.input_mode not in ("RGB", "L"):
        return False
    steps = np.arange(0, 256, 15, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    before = Image.fromarray(colours).convert(transform.input_mode)
    after = np.asarray(transform.apply(before), dtype=np.int16)
    return bool(np.abs(after - np.asarray(before.convert("RGB"))).max() <= SRGB_TOLERANCE)
