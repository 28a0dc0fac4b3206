"""Tables with a row for each image and a column for each of its pixels."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import compress, product
from typing import TypeAlias

from loupe.images.spec import SIDE

Numbers: TypeAlias = tuple[int, ...]

PIXELS = SIDE * SIDE
MIN_COLUMNS = PIXELS // 2  # fewer numbered columns are something else
# `pixel17`, `17`, or `3x28` for row and column. Longer numbers are no pixels.
NUMBER = re.compile(r"[0-9]{1,4}")
SHOWN_NUMBERS = 3  # in error messages


def pixel_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of pixels in the order of their numbers; an empty list if there are none.

    Files often have them in another order, sorted by name for example: pixel0, pixel1, pixel10.

    Raises:
        ValueError: If there are nearly as many as an image has pixels, or if numbers are missing
            or repeated.
    """
    groups: dict[str, list[tuple[Numbers, str]]] = defaultdict(list)
    for name in names:
        if numbers := tuple(map(int, NUMBER.findall(name))):
            groups[NUMBER.sub("#", name)].append((numbers, name))
    found = _without_constants(max(groups.values(), key=len, default=[]))
    if len(found) < MIN_COLUMNS:
        return []
    if [numbers for numbers, _ in found] not in _numberings():
        raise ValueError(_problem(found))
    return [name for _, name in found]


def _without_constants(found: list[tuple[Numbers, str]]) -> list[tuple[Numbers, str]]:
    """Return sorted names with the numbers that differ, for example without the 2 of `v2_px17`."""
    columns = zip(*(numbers for numbers, _ in found), strict=True)
    differing = [len({*values}) > 1 for values in columns]
    return sorted((tuple(compress(numbers, differing)), name) for numbers, name in found)


def _numberings() -> list[list[Numbers]]:
    """Return the numbers of all pixels, counted from 0 or 1, by position or by row and column."""
    return [
        list(product(*(range(first, first + count) for count in counts)))
        for counts in ((PIXELS,), (SIDE, SIDE))
        for first in (0, 1)
    ]


def _problem(found: list[tuple[Numbers, str]]) -> str:
    """Return what is wrong with the numbers of these columns."""
    counts = Counter(numbers for numbers, _ in found)
    repeated = [name for numbers, name in found if counts[numbers] > 1]
    expected = min(_numberings(), key=lambda each: len({*each} ^ {*counts}))
    missing = sorted({*expected} - {*counts})
    text = f"{len(found):,} columns of pixels such as '{found[0][1]}' instead of {PIXELS}"
    if repeated:
        text += f"; repeated: {', '.join(repeated[:SHOWN_NUMBERS])}"
    if missing:
        shown = ("x".join(map(str, numbers)) for numbers in missing[:SHOWN_NUMBERS])
        text += f"; missing: {', '.join(shown)}"
    return text
