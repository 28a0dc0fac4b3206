"""A light sheet that lies on a darker table."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.images.looks.contrast import split
from loupe.images.looks.parts import Parts
from loupe.images.looks.scaling import resized
from loupe.images.looks.shapes import Mask, bounds, dilate, erode
from loupe.images.spec import UInt8Array
from loupe.images.steps import note

VIEW_SIDE = 64  # pixels; enough to see a sheet
MIN_SIDE_SHARE = 0.2  # of the shorter side of the view
MIN_AREA_SHARE = 0.05  # of the view
MAX_INK_SHARE = 0.3  # of the sheet; in the ring of a zero, there is more
RECTANGULAR = 0.82  # share of a sheet in its smallest rectangle; of an ellipse, it is 0.79
MIN_STEP, MIN_STEP_SHARE = 25, 0.25  # in grey levels and of the sheet's; shading is no edge
ANGLES = np.deg2rad(np.arange(0, 90, 5))


def cut_to_sheet(grey: UInt8Array) -> tuple[UInt8Array, int, int]:
    """Return the sheet, with paper in place of the table, and its top and left in the picture.

    A picture without a sheet is returned as it is.
    """
    view = resized(grey, VIEW_SIDE)
    sheet = _find(view)
    if sheet is None:
        return grey, 0, 0
    inner = erode(np.pad(sheet, 1), 5, 5)[1:-1, 1:-1]
    if not inner.any():
        return grey, 0, 0
    height, width = grey.shape
    on_sheet = Image.fromarray(inner).convert("L").resize((width, height), Image.Resampling.NEAREST)
    shown = np.asarray(on_sheet) > 0
    rows, columns = bounds(shown)
    note("cut_to_sheet", "found a sheet on a darker ground")
    paper = np.uint8(np.median(view[inner]))
    return np.where(shown, grey, paper)[rows, columns], rows.start, columns.start


def _find(view: UInt8Array) -> Mask | None:
    """Return the filled outline of a sheet."""
    light = view > split(np.array(Image.fromarray(view).histogram()))
    edges = np.concatenate([light[0], light[-1], light[:, 0], light[:, -1]])
    if not light.any() or edges.mean() > 0.6:  # even, or paper to the edges
        return None
    parts = Parts.of(light)
    largest = int(parts.area.argmax())
    # The light side of a shadow's edge touches three.
    if parts.at_edges[:, largest].sum() > 2 or (
        min(parts.height[largest], parts.width[largest]) < MIN_SIDE_SHARE * min(view.shape)
    ):
        return None
    paper = parts.region(largest).in_picture(view.shape)
    sheet, corners = _filled(paper)
    area = sheet.sum()
    is_sheet = (
        paper.sum() >= (1 - MAX_INK_SHARE) * area
        and area >= MIN_AREA_SHARE * view.size
        and area >= RECTANGULAR * _smallest_rectangle(corners)
        and _has_sharp_edge(view, sheet)
    )
    return sheet if is_sheet else None


def _filled(mask: Mask) -> tuple[Mask, NDArray[np.intp]]:
    """Fill each row from its first to its last pixel.

    Also return the corners of the outline's pixels, `(2, n)`.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    after = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    columns = np.arange(mask.shape[1])
    filled = np.zeros_like(mask)
    filled[rows] = (columns >= first[:, np.newaxis]) & (columns < after[:, np.newaxis])
    corners = np.array([[rows, rows, rows + 1, rows + 1], [first, after, first, after]])
    return filled, corners.reshape(2, -1)


def _smallest_rectangle(points: NDArray[np.intp]) -> float:
    """Return the area of the smallest of some rectangles around points `(2, n)`."""
    y, x = points
    across = np.outer(np.cos(ANGLES), x) + np.outer(np.sin(ANGLES), y)
    along = np.outer(np.cos(ANGLES), y) - np.outer(np.sin(ANGLES), x)
    return float((np.ptp(across, axis=1) * np.ptp(along, axis=1)).min())


def _has_sharp_edge(view: UInt8Array, sheet: Mask) -> bool:
    """Return whether the sheet is clearly lighter than the table, just inside and outside."""
    padded = np.pad(sheet, 2)
    inside = (erode(padded, 3, 3) & ~erode(padded, 5, 5))[2:-2, 2:-2]
    outside = (dilate(padded, 5, 5) & ~dilate(padded, 3, 3))[2:-2, 2:-2]
    if not inside.any() or not outside.any():
        return False
    paper = float(np.median(view[inside]))
    step = paper - float(np.percentile(view[outside], 80))
    return step >= max(MIN_STEP, MIN_STEP_SHARE * paper)
