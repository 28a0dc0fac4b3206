"""Fonts for class names in any script, of those that Matplotlib finds on this machine."""

from collections.abc import Iterable
from functools import cache

FONT = "DejaVu Sans"  # comes with Matplotlib
CJK_FONTS = (  # used where they are installed, for names that Matplotlib's own font cannot write
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Hiragino Sans",
    "Yu Gothic",
    "Meiryo",
    "MS Gothic",
    "IPAexGothic",
    "IPAPGothic",
    "IPAGothic",
    "TakaoPGothic",
    "VL PGothic",
    "WenQuanYi Zen Hei",
)


@cache
def families() -> tuple[str, ...]:
    """Matplotlib's own font, and those for Japanese that are installed; the first that has a letter writes it."""
    from matplotlib.font_manager import get_font_names

    installed = frozenset(get_font_names())
    return (FONT, *[font for font in CJK_FONTS if font in installed])


def unwritable(names: Iterable[str]) -> list[str]:
    """Those that no font of `families` can write, each once."""
    return [
        name
        for name in dict.fromkeys(names)
        if any(ord(letter) not in _letters() for letter in name)
    ]


@cache
def _letters() -> frozenset[int]:
    from matplotlib.font_manager import findfont, get_font

    return frozenset().union(*(get_font(findfont(family)).get_charmap() for family in families()))
