"""Contact sheets of scored images, as the model saw them, with their predictions."""

from collections.abc import Sequence

from loupe.drawing import INK, LARGE, MEDIUM, Text, Tile, TileSheet, legible
from worker.results.statistics import ScoredImage

COLUMNS = 6


def draw(
    title: str, images: Sequence[ScoredImage], class_names: Sequence[str], threshold: float | None
) -> bytes:
    """Return a PNG file with images in reading order.

    Labels with a confidence below `threshold` get a question mark.
    """

    def tile(image: ScoredImage) -> Tile:
        label = legible(class_names[image.best], image.best)
        if threshold is not None and image.confidence < threshold:
            label = f"? {label}"
        above = Text(label, LARGE, INK), Text(f"{image.confidence:.3f}", MEDIUM)
        return Tile(image.pixels(), above, (Text(image.id.rpartition("/")[2]),))

    heading = (Text(title, LARGE, INK),)
    return TileSheet(list(map(tile, images)), COLUMNS, title=heading).png()
