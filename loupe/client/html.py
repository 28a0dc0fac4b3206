"""A prediction as HTML for notebooks, light or dark: the picture, what the model saw, and bars.

All images are inside the page, and nothing in it is a script.
"""

import os
from html import escape
from pathlib import Path

import numpy as np

from loupe.client.grid import preview
from loupe.client.predictions import SHOWN_CLASSES, Prediction, View
from loupe.drawing import png_in_base64
from loupe.images.spec import UInt8Array
from loupe.text import one_line

HEIGHT = 112  # pixels of the pictures
PICTURE_SIDE = 2 * HEIGHT  # pixels; enough for dense displays
BAR = "#4c8dd6"  # readable on light and dark ground


def render(prediction: Prediction) -> str:
    """Return a prediction as HTML."""
    label = _text(prediction.label or prediction.reason or "unsure")
    rows = "".join(_row(name, value) for name, value in prediction.best(SHOWN_CLASSES))
    pictures = _pictures(prediction.view) if prediction.view else ""
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:16px;align-items:flex-start;color:inherit">'
        f"{pictures}<div><div><strong>{label}</strong> {prediction.confidence:.4f}</div>"
        f'<div style="margin:4px 0">{rows}</div>'
        f'<div style="opacity:.7;font-size:smaller">{_text(prediction.model)}</div></div></div>'
    )


def _row(name: str, value: float) -> str:
    width = 100 * min(max(value, 0), 1)
    return (
        '<div style="display:flex;gap:8px;align-items:center;line-height:1.5">'
        '<span style="width:10em;overflow:hidden;text-overflow:ellipsis;white-space:nowrap" '
        f'title="{_text(name)}"><bdi>{_text(name)}</bdi></span>'
        '<span style="width:120px;height:10px;background:rgba(128,128,128,.25)">'
        f'<span style="display:block;height:10px;width:{width:.1f}%;background:{BAR}"></span>'
        f"</span><span>{value:.4f}</span></div>"
    )


def _pictures(view: View) -> str:
    picture = _picture(view)
    shown = "" if picture is None else _figure(picture, "picture")
    counted = "" if view.saliency is None else _figure(view.saliency, "what counted")
    alike = "".join(_figure(each.image, _text(each.label)) for each in view.nearest or ())
    return shown + _figure(view.seen, "what the model saw") + counted + alike


def _picture(view: View) -> UInt8Array | None:
    """Return the picture to show, if it was kept and can still be read."""
    kept = view.picture
    if isinstance(kept, np.ndarray):
        return kept
    if isinstance(kept, str | os.PathLike):
        return preview(Path(kept), PICTURE_SIDE)
    return preview(kept, PICTURE_SIDE) if isinstance(kept, bytes) else None


def _figure(pixels: UInt8Array, caption: str) -> str:
    data = png_in_base64(pixels)
    scaling = "pixelated" if max(pixels.shape) < HEIGHT else "auto"
    return (
        '<div style="text-align:center;font-size:smaller">'
        f'<img src="data:image/png;base64,{data}" alt="{caption}" '
        f'style="height:{HEIGHT}px;width:auto;max-width:{PICTURE_SIDE}px;object-fit:contain;'
        f'margin:0;image-rendering:{scaling}"><div style="opacity:.7">{caption}</div></div>'
    )


def _text(text: str) -> str:
    return escape(one_line(text))
