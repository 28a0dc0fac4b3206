"""Sheets of small pictures with captions, drawn by Pillow as PNG files.

Pillow takes a hundredth of the time of Matplotlib, and every program has it.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from loupe.images.spec import UInt8Array

FONT_FILES = (  # in the order of preference; the last ones write Japanese and Chinese
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansJP-Regular.otf",
    "NotoSansJP-Regular.ttf",
    "ipaexg.ttf",
    "ipag.ttf",
    "ipagp.ttf",
    "TakaoPGothic.ttf",
    "VL-PGothic-Regular.ttf",
    "wqy-zenhei.ttc",
    "Hiragino Sans GB.ttc",
    "YuGothR.ttc",
    "meiryo.ttc",
    "msgothic.ttc",
)
LARGE, MEDIUM, SMALL = 18, 14, 11  # font sizes in pixels
LINE_HEIGHT = 1.35  # of the font size
MARGIN = 24  # pixels around the sheet
PADDING = 4  # pixels between a tile and its captions
MAX_LETTERS = 1000  # of one line; further ones would not fit
MAX_ROW_TITLE = 240  # pixels; longer row titles are cut
INK, MUTED, ORANGE, BLUE = "#1f2933", "#6b7785", "#d9730d", "#2b6cb0"
TRACK = "#e1e6eb"  # behind bars
BAR_HEIGHT, BAR_NAME, BAR_LENGTH = 17, 0.36, 0.44  # pixels; shares of the tile's width
GROUND = "#f1f4f8"  # around pictures that are not square

Font = ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Text:
    """One line of text; it is cut where it does not fit."""

    words: str
    size: int = SMALL
    colour: str = MUTED


@dataclass(frozen=True)
class Bar:
    """A line with a name, a bar and a number.

    Attributes:
        share: The length of the bar, 0..1.
    """

    name: str
    share: float


@dataclass(frozen=True)
class Tile:
    """A picture with captions.

    Attributes:
        image: uint8, grey `(height, width)` or RGB `(height, width, 3)`; `None` for an empty tile.
        above: Lines above the picture.
        below: Lines below the picture, and below the bars.
        beside: A second picture, at the right of the first one.
        bars: Bars below the picture.
    """

    image: UInt8Array | None
    above: Sequence[Text] = ()
    below: Sequence[Text] = ()
    beside: UInt8Array | None = None
    bars: Sequence[Bar] = ()


@dataclass(frozen=True)
class TileSheet:
    """Tiles in rows, in reading order. The sheet is grey if all its pictures are.

    Attributes:
        tiles: At least one; `None` leaves a place blank.
        columns: Tiles in a row.
        side: Pixels of a picture. Smaller ones are enlarged without smoothing.
        gap: Pixels between tiles.
        title: Lines above all tiles.
        row_titles: For each row, lines at its left.
    """

    tiles: Sequence[Tile | None]
    columns: int
    side: int = 112
    gap: int = 20
    title: Sequence[Text] = ()
    row_titles: Sequence[Sequence[Text]] = ()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the sheet in pixels."""
        left, top = self.origin(0)
        rows = -(-len(self.tiles) // self.columns)
        width = left + self.columns * (self._width + self.gap) - self.gap + MARGIN
        return width, top - self._above + rows * self._row_height - self.gap + MARGIN

    def origin(self, number: int) -> tuple[int, int]:
        """Return the left and top edge of a tile's picture in pixels."""
        title = _height(self.title) + 2 * PADDING if self.title else 0
        names = [text for texts in self.row_titles for text in texts]
        left = min(max(map(_width, names), default=0), MAX_ROW_TITLE) + MARGIN if names else 0
        row, column = divmod(number, self.columns)
        top = MARGIN + title + row * self._row_height + self._above
        return MARGIN + left + column * (self._width + self.gap), top

    def png(self) -> bytes:
        """Draw the sheet and encode it as PNG."""
        pictures = [picture for tile in self.tiles if tile for picture in (tile.image, tile.beside)]
        colour = any(tile and tile.bars for tile in self.tiles)
        colour |= any(picture is not None and picture.ndim == 3 for picture in pictures)
        sheet = Image.new("RGB" if colour else "L", self.size, "white")
        pen = ImageDraw.Draw(sheet)
        _write(pen, self.title, (MARGIN, MARGIN), self.size[0] - 2 * MARGIN)
        for row, texts in enumerate(self.row_titles):
            middle = self.origin(row * self.columns)[1] + self.side // 2
            _write(pen, texts, (MARGIN, middle - _height(texts) // 2), MAX_ROW_TITLE)
        for number, tile in enumerate(self.tiles):
            if tile is not None:
                left, top = self.origin(number)
                sheet.paste(_fitted(tile.image, self.side, sheet.mode), (left, top))
                if tile.bars or tile.beside is not None:  # people's own pictures may be white
                    outer = (left - 1, top - 1, left + self._width, top + self.side)
                    pen.rectangle(outer, outline=TRACK)
                if tile.beside is not None:
                    beside = _fitted(tile.beside, self.side, sheet.mode)
                    sheet.paste(beside, (left + self.side + PADDING, top))
                # Captions may extend into the gap, which leaves them apart from their neighbours'.
                place = left - self.gap // 2, self._width + self.gap - PADDING
                above = top - PADDING - _height(tile.above)
                _write(pen, tile.above, (place[0], above), place[1], centred=True)
                below = top + self.side + PADDING
                for bar in tile.bars:
                    _draw_bar(pen, bar, (left, below), self._width)
                    below += BAR_HEIGHT
                _write(pen, tile.below, (place[0], below), place[1], centred=True)
        file = io.BytesIO()
        sheet.save(file, "PNG", compress_level=1)  # higher levels take ten times as long
        return file.getvalue()

    @cached_property
    def _width(self) -> int:
        """Pixels of a tile."""
        is_pair = any(tile and tile.beside is not None for tile in self.tiles)
        return 2 * self.side + PADDING if is_pair else self.side

    @cached_property
    def _above(self) -> int:
        return max(
            _height(tile.above) + PADDING if tile and tile.above else 0 for tile in self.tiles
        )

    @cached_property
    def _row_height(self) -> int:
        below = max(
            BAR_HEIGHT * len(tile.bars) + _height(tile.below) + PADDING
            if tile and (tile.below or tile.bars)
            else 0
            for tile in self.tiles
        )
        return self._above + self.side + below + self.gap


def unwritable(names: Iterable[str]) -> list[str]:
    """Return the names that no installed font can write, each once."""
    return [name for name in dict.fromkeys(names) if _font(name, LARGE) is None]


@cache
def families() -> tuple[str, ...]:
    """Return the font families for class names in a Matplotlib figure.

    Matplotlib keeps a list of fonts from its first start, so it learns of those installed later.
    """
    from matplotlib.font_manager import fontManager

    known = {font.fname for font in fontManager.ttflist}
    for path in _font_paths():
        if path not in known:
            fontManager.addfont(path)
    names = (ImageFont.truetype(path, LARGE).getname()[0] for path in _font_paths())
    return tuple(dict.fromkeys(name for name in names if name))


def legible(name: str, index: int) -> str:
    """Return a class name, or `#index` if it is empty or no font can write it."""
    return name if name and _font(name, LARGE) else f"#{index}"


def _fitted(image: UInt8Array | None, side: int, mode: str) -> Image.Image:
    """Scale a picture, without changing its proportions, into the middle of a square."""
    square = Image.new(mode, (side, side), GROUND)
    if image is not None:
        picture = Image.fromarray(image)
        scale = side / max(picture.size)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
        corner = (side - size[0]) // 2, (side - size[1]) // 2
        square.paste(picture.resize(size, method), corner)
    return square


def _draw_bar(pen: ImageDraw.ImageDraw, bar: Bar, corner: tuple[int, int], width: int) -> None:
    left, top = corner
    start, end = left + round(BAR_NAME * width), left + round((BAR_NAME + BAR_LENGTH) * width)
    _write(pen, [Text(bar.name, SMALL, INK)], corner, start - left - PADDING)
    middle = top + BAR_HEIGHT // 2
    filled = start + round((end - start) * min(max(bar.share, 0), 1))
    pen.rectangle((start, middle - 4, end, middle + 3), TRACK)
    if filled > start:
        pen.rectangle((start, middle - 4, filled, middle + 3), BLUE)
    number = Text(f"{100 * bar.share:.1f} %", SMALL)
    _write(pen, [number], (end + PADDING, top), left + width - end - PADDING)


def _height(texts: Sequence[Text]) -> int:
    return sum(round(text.size * LINE_HEIGHT) for text in texts)


def _width(text: Text) -> int:
    font = _any_font(text)
    return int(font.getlength(_drawable(text, font))) + 1


def _drawable(text: Text, font: Font) -> str:
    """Return the letters that the font can draw; no sheet has room for more than the first ones."""
    return "".join(letter for letter in text.words[:MAX_LETTERS] if _has_glyph(font, letter))


def _write(
    pen: ImageDraw.ImageDraw,
    texts: Sequence[Text],
    corner: tuple[int, int],
    width: int,
    *,
    centred: bool = False,
) -> None:
    """Write lines below each other, each at most `width` pixels; omit letters without a glyph."""
    left, top = corner
    for text in texts:
        font = _any_font(text)
        words = _drawable(text, font)
        if font.getlength(words) > width:
            while words and round(font.getlength(words + "…")) > width:
                words = words[:-1]
            words += "…"
        indent = (width - font.getlength(words)) / 2 if centred else 0
        pen.text((left + indent, top), words, text.colour, font)
        top += _height([text])


def _any_font(text: Text) -> Font:
    return _font(text.words, text.size) or _fonts(text.size)[0]


def _font(words: str, size: int) -> Font | None:
    """Return the first font that has all letters."""
    fonts = _fonts(size)
    return next((font for font in fonts if all(_has_glyph(font, each) for each in words)), None)


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    """Return the fonts of this machine, and Pillow's own."""
    own = ImageFont.load_default(size)
    if not isinstance(own, Font):
        raise RuntimeError("Pillow was built without FreeType; install the one from PyPI")
    files = _font_paths()
    return *(ImageFont.truetype(path, size) for path in files), own


@cache
def _font_paths() -> tuple[str, ...]:
    """Find the installed fonts; Matplotlib brings DejaVu Sans along."""
    matplotlib = find_spec("matplotlib")
    found = []
    for name in FONT_FILES:
        bundled = (
            Path(matplotlib.origin or "").parent / "mpl-data/fonts/ttf" if matplotlib else None
        )
        path = str(bundled / name) if bundled and (bundled / name).is_file() else name
        try:
            found.append(str(ImageFont.truetype(path, LARGE).path))
        except OSError:
            continue
    return tuple(found)


@cache
def _has_glyph(font: Font, letter: str) -> bool:
    """Return whether the font has a glyph for `letter`: not the box of unknown letters."""
    return letter.isprintable() and (
        letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
    )


def encode_png(image: UInt8Array) -> bytes:
    """Encode an image, uint8 `(height, width)` or `(height, width, 3)`, as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def png_in_base64(image: UInt8Array) -> str:
    """Return an image, uint8 `(height, width)` or `(height, width, 3)`, as PNG in base64."""
    return base64.b64encode(encode_png(image)).decode()
