"""Contact sheets of scored images, as they are and as the model saw them, with predictions."""

from collections.abc import Mapping, Sequence

import numpy as np

from loupe.drawing import INK, LARGE, MEDIUM, Text, Tile, TileSheet, legible
from loupe.images.spec import UInt8Array
from worker.results.statistics import ScoredImage

COLUMNS = 6


def draw(
    title: str,
    images: Sequence[ScoredImage],
    class_names: Sequence[str],
    threshold: float | None,
    originals: Mapping[str, UInt8Array],
) -> bytes:
    """Return a PNG file with images in reading order.

    Labels with a confidence below `threshold` get a question mark. `originals`, uint8 RGB by id,
    are at the left of what the model saw, unless it saw them unchanged.
    """

    def tile(image: ScoredImage) -> Tile:
        label = legible(class_names[image.best], image.best)
        if threshold is not None and image.confidence < threshold:
            label = f"? {label}"
        above = Text(label, LARGE, INK), Text(f"{image.confidence:.3f}", MEDIUM)
        below = (Text(image.id.rpartition("/")[2]),)
        seen, original = image.pixels(), originals.get(image.id)
        if original is None or _is_same(original, seen):
            return Tile(seen, above, below)
        return Tile(original, above, below, seen)

    heading = (Text(title, LARGE, INK),)
    return TileSheet(list(map(tile, images)), COLUMNS, title=heading).png()


def _is_same(original: UInt8Array, seen: UInt8Array) -> bool:
    """Return whether an image, grey or in colour, is the original in RGB."""
    colour = seen if seen.ndim == 3 else seen[..., np.newaxis]
    return original.shape[:2] == seen.shape[:2] and bool((original == colour).all())
