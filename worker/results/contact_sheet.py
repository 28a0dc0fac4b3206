"""A picture of some of the images that a job has scored, each as the model saw it, with what it saw above.

Drawn by Pillow, in a hundredth of the time that Matplotlib takes, for the job is not done before; and in grey, as the images are.
"""

import io
from collections.abc import Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from worker.results.statistics import Tile

ACROSS = 6  # tiles in a row
SIDE = 112  # pixels of a tile, a multiple of 28
GAP, MARGIN, HEADING = 20, 24, 48  # pixels between two tiles, around all, and for the title
ABOVE, BELOW = 44, 28  # pixels for the words at a tile
LARGE, MEDIUM, SMALL = 18, 14, 11  # pixels of a line of letters
INK, MUTED, WHITE = 32, 118, 255  # shades of grey
FALLBACKS = (  # for class names that Pillow's own font cannot write, where they are installed
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansJP-Regular.otf",
    "ipag.ttf",
    "ipagp.ttf",
    "wqy-zenhei.ttc",
    "Hiragino Sans GB.ttc",
    "YuGothR.ttc",
    "msgothic.ttc",
)
Font = ImageFont.FreeTypeFont


def draw(
    title: str, tiles: Sequence[Tile], class_names: Sequence[str], threshold: float | None
) -> bytes:
    """The bytes of a PNG file.

    Args:
        title: Stands above all.
        tiles: At least one; drawn in rows, in their order.
        class_names: Of the model.
        threshold: Confidence from which on a label is given; below it has a question mark.
    """
    rows = -(-len(tiles) // ACROSS)
    width = 2 * MARGIN + ACROSS * (SIDE + GAP) - GAP
    sheet = Image.new("L", (width, 2 * MARGIN + HEADING + rows * (ABOVE + SIDE + BELOW)), WHITE)
    pen = ImageDraw.Draw(sheet)
    _write(pen, (MARGIN, MARGIN), title, LARGE, INK, width - 2 * MARGIN)
    for number, tile in enumerate(tiles):
        left = MARGIN + number % ACROSS * (SIDE + GAP)
        top = MARGIN + HEADING + number // ACROSS * (ABOVE + SIDE + BELOW) + ABOVE
        sheet.paste(
            Image.fromarray(tile.image).resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top)
        )
        label = class_names[tile.best] if _font(class_names[tile.best], LARGE) else f"#{tile.best}"
        if threshold is not None and tile.confidence < threshold:
            label = f"? {label}"
        _write(pen, (left, top - ABOVE), label, LARGE, INK, SIDE)
        _write(pen, (left, top - MEDIUM - 7), f"{tile.confidence:.3f}", MEDIUM, MUTED, SIDE)
        _write(pen, (left, top + SIDE + 4), tile.id.rpartition("/")[2], SMALL, MUTED, SIDE)
    file = io.BytesIO()
    sheet.convert("P").save(
        file, "PNG", compress_level=1
    )  # with a palette, Pillow does not try filters, which takes ten times as long
    return file.getvalue()


def _write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, shade: int, width: int
) -> None:
    """One line from its upper left corner on, cut where it would be wider; letters that no font has are left out."""
    font = _font(text, size) or _fonts(size)[0]
    text = "".join(letter for letter in text[:width] if _writes(font, letter))
    if font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    pen.text(place, text, shade, font)


def _font(text: str, size: int) -> Font | None:
    """The first that has all of its letters."""
    return next(
        (font for font in _fonts(size) if all(_writes(font, letter) for letter in text)), None
    )


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    """Pillow's own, and those that are installed."""
    own = ImageFont.load_default(size)
    if not isinstance(own, Font):
        raise RuntimeError("Pillow was built without FreeType; install the one from PyPI")
    found = [own]
    for name in FALLBACKS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@cache
def _writes(font: Font, letter: str) -> bool:
    """Whether a font has a letter, and does not draw what it draws for those that it has not."""
    return letter.isprintable() and (
        letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
    )
