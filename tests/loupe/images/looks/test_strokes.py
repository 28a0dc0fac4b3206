"""Drawing strokes of any width."""

import numpy as np

from loupe.images.looks.parts import Parts
from loupe.images.looks.strokes import draw_strokes
from loupe.images.spec import ImageSpec
from loupe.images.steps import recording


def test_strokes_that_fade_when_the_picture_shrinks_are_drawn() -> None:
    mask = np.zeros((200, 200), bool)
    mask[0, 0] = mask[199, 199] = True
    contrast = np.where(mask, 255, 0).astype(np.uint8)
    strokes = Parts.of(mask).region()

    with recording([]):
        assert draw_strokes(contrast, strokes, 100, ImageSpec("ink")).max() == 255
