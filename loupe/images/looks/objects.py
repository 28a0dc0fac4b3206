"""Objects: find the thing on a plain ground, as in Fashion-MNIST."""

import numpy as np

from loupe.images.looks.contrast import split
from loupe.images.looks.parts import Parts
from loupe.images.looks.scaling import resized
from loupe.images.looks.shapes import dilate
from loupe.images.spec import UInt8Array
from loupe.images.steps import note_crop

VIEW_SIDE = 128  # pixels; larger pictures shrink before the object is found
CORNER_SHARE = 0.06  # of the longer side
MAX_SPREAD = 16  # levels; of the corners, and of most pixels in each, on a plain ground
MIN_CONTRAST = 12  # levels between ground and object
PIECE = 0.1  # of the area of the largest part; smaller ones are specks
MIN_SIDE = 0.1  # of the longer side; what is smaller is no object


def cut_to_object(grey: UInt8Array) -> UInt8Array:
    """Cut a picture, uint8 `(height, width)`, to its object, and make the dark ground black.

    A picture without a plain ground is returned as it is.
    """
    view = resized(grey, VIEW_SIDE) if max(grey.shape) > VIEW_SIDE else grey
    ground = _plain_ground(view)
    if ground is None:
        return grey
    away = np.abs(view.astype(np.int16) - ground).astype(np.uint8)
    level = max(MIN_CONTRAST, split(np.bincount(away.ravel(), minlength=256)) // 2)
    parts = Parts.of(dilate(away > level, 3, 3))
    if not parts.count or parts.size.max() < MIN_SIDE * max(view.shape):
        return grey
    kept = parts.only(parts.area >= PIECE * parts.area.max()).region()
    scale = max(grey.shape) / max(view.shape)
    rows, columns = (
        slice(int(scale * side.start), int(np.ceil(scale * side.stop))) for side in kept.bounds
    )
    cut = grey[rows, columns]
    height, width = (now / before for now, before in zip(cut.shape, grey.shape, strict=True))
    if min(height, width) < 1:
        note_crop(width, height, "the object")
    lifted = np.maximum(cut.astype(np.float32) - ground, 0)
    return np.asarray(lifted * (255 / max(1, 255 - ground)), np.uint8)


def _plain_ground(view: UInt8Array) -> int | None:
    """Return the brightness of the ground if the corners show the same even one."""
    side = max(1, round(CORNER_SHARE * max(view.shape)))
    corners = [
        view[rows, columns]
        for rows in (slice(side), slice(-side, None))
        for columns in (slice(side), slice(-side, None))
    ]
    low, levels, high = np.percentile(np.stack(corners), (10, 50, 90), axis=(1, 2))
    is_plain = np.ptp(levels) <= MAX_SPREAD and (high - low).max() <= MAX_SPREAD
    return round(float(np.median(levels))) if is_plain else None
