"""Connected parts of a mask, whose pixels touch by a side or a corner."""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from loupe.images.looks.shapes import Mask, Window, bounds
from loupe.images.spec import UInt8Array

Ints = NDArray[np.intp]


@dataclass(frozen=True)
class Region:
    """A box in a picture with some of its pixels, at least one.

    Attributes:
        box: A box around them.
        mask: The pixels, in the box.
    """

    box: Window
    mask: Mask

    def in_picture(self, shape: tuple[int, ...]) -> Mask:
        """Return the pixels as a mask of the whole picture."""
        picture = np.zeros(shape, bool)
        picture[self.box] = self.mask
        return picture

    @property
    def bounds(self) -> Window:
        """The smallest box around them."""
        rows, columns = (
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(self.box, bounds(self.mask), strict=True)
        )
        return rows, columns

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the smallest box."""
        rows, columns = self.bounds
        return rows.stop - rows.start, columns.stop - columns.start

    def tone(self, values: UInt8Array) -> int:
        """Return the median of their values."""
        tones = values[self.box][self.mask]
        return int(np.partition(tones, len(tones) // 2)[len(tones) // 2])


@dataclass(frozen=True)
class Parts:
    """The connected parts of a mask, as runs: neighbouring pixels of a row.

    Attributes:
        shape: Height and width of the mask.
        rows, starts, stops: The row of each run, its first column, and the column after its last.
        part: The number of each run's part, from 0.
    """

    shape: tuple[int, int]
    rows: Ints
    starts: Ints
    stops: Ints
    part: Ints

    @classmethod
    def of(cls, mask: Mask) -> Self:
        """Find the parts of a mask."""
        height, width = mask.shape
        stride = width + 2  # so that runs of neighbouring rows never touch at the edges
        padded = np.zeros((height, stride), bool)
        padded[:, 1:-1] = mask
        pixels = padded.ravel()
        changes = np.flatnonzero(pixels[1:] != pixels[:-1])
        starts, stops = changes[::2], changes[1::2]
        rows = starts // stride
        return cls(
            (height, width),
            rows,
            starts - rows * stride,
            stops - rows * stride,
            _connected(starts, stops, stride),
        )

    def only(self, kept: Mask) -> Self:
        """Return some of the parts, `kept` of shape `(count,)`."""
        if kept.all():
            return self
        runs = kept[self.part]
        numbers = kept.cumsum() - 1
        return type(self)(
            self.shape,
            self.rows[runs],
            self.starts[runs],
            self.stops[runs],
            numbers[self.part[runs]],
        )

    @cached_property
    def count(self) -> int:
        """Number of parts."""
        return int(self.part.max(initial=-1)) + 1

    @cached_property
    def area(self) -> Ints:
        """Pixels of each part, shape `(count,)`, as of all that follow."""
        return self._sums(self.stops - self.starts)

    @cached_property
    def top(self) -> Ints:
        """First row of each part."""
        return self._extremes(np.minimum, self.rows, self.shape[0])

    @cached_property
    def bottom(self) -> Ints:
        """Row after the last of each part."""
        return self._extremes(np.maximum, self.rows, 0) + 1

    @cached_property
    def left(self) -> Ints:
        """First column of each part."""
        return self._extremes(np.minimum, self.starts, self.shape[1])

    @cached_property
    def right(self) -> Ints:
        """Column after the last of each part."""
        return self._extremes(np.maximum, self.stops, 0)

    @cached_property
    def height(self) -> Ints:
        """Rows of each part's box."""
        return self.bottom - self.top

    @cached_property
    def width(self) -> Ints:
        """Columns of each part's box."""
        return self.right - self.left

    @cached_property
    def size(self) -> Ints:
        """Longer side of each part's box."""
        return np.maximum(self.height, self.width)

    @cached_property
    def extent(self) -> Ints:
        """Pixels of each part from the first to the last of each row, with gaps between them."""
        height, width = self.shape
        row = self.part * height + self.rows
        first, after = np.full(self.count * height, width), np.zeros(self.count * height, np.intp)
        np.minimum.at(first, row, self.starts)
        np.maximum.at(after, row, self.stops)
        lengths = np.maximum(after - first, 0).reshape(-1, height)
        return np.asarray(lengths.sum(axis=1))

    @cached_property
    def at_edges(self) -> Mask:
        """The parts that touch the top, bottom, left and right edge: shape `(4, count)`."""
        height, width = self.shape
        return np.stack([self.top == 0, self.bottom == height, self.left == 0, self.right == width])

    def region(self, number: int | None = None) -> Region:
        """Return the pixels of one part, or of all, in a box.

        It has a margin of one pixel, but not beyond the edges of the picture.
        """
        if number is None:
            rows, starts, stops = self.rows, self.starts, self.stops
        else:
            runs = self.part == number
            rows, starts, stops = self.rows[runs], self.starts[runs], self.stops[runs]
        top, left = max(0, int(rows[0]) - 1), max(0, int(starts.min()) - 1)
        bottom, right = int(rows[-1]) + 2, int(stops.max()) + 1
        bottom, right = min(bottom, self.shape[0]), min(right, self.shape[1])
        stride = right - left + 1  # a column more, for the ends of runs at the edge
        first = (rows - top) * stride - left
        steps = np.zeros((bottom - top, stride), np.int8)
        steps.ravel()[first + starts] = 1
        steps.ravel()[first + stops] = -1
        inside = steps.cumsum(dtype=np.int8).reshape(steps.shape)
        return Region((slice(top, bottom), slice(left, right)), inside[:, :-1] > 0)

    def mask(self) -> Mask:
        """Return the pixels of all parts, in the whole picture."""
        if not self.count:
            return np.zeros(self.shape, bool)
        return self.region().in_picture(self.shape)

    def weigh(self, values: UInt8Array) -> Ints:
        """Return the sum of the squared values of each part's pixels."""
        sums = np.zeros(values.size + 1, np.intp)
        np.square(values.ravel(), dtype=np.intp).cumsum(out=sums[1:])
        first = self.rows * self.shape[1]
        return self._sums(sums[first + self.stops] - sums[first + self.starts])

    def _sums(self, of_runs: Ints) -> Ints:
        return np.bincount(self.part, of_runs, self.count).astype(np.intp)

    def _extremes(self, extreme: np.ufunc, of_runs: Ints, initial: int) -> Ints:
        found = np.full(self.count, initial)
        extreme.at(found, self.part, of_runs)
        return found


def _connected(starts: Ints, stops: Ints, stride: int) -> Ints:
    """Return the number of each run's part, from the positions of runs in all pixels."""
    first = np.searchsorted(stops, starts + stride)
    after = np.searchsorted(starts, stops + stride, "right")
    neighbours = np.maximum(after - first, 0)  # in the next row
    runs = np.arange(len(starts))
    upper = np.repeat(runs, neighbours)
    lower = np.arange(len(upper)) + np.repeat(first - neighbours.cumsum() + neighbours, neighbours)
    root = runs.copy()
    root[lower[::-1]] = upper[::-1]  # the first of those above
    while True:
        root = root[root[root]]
        upper_root, lower_root = root[upper], root[lower]
        if (upper_root == lower_root).all():
            break
        last, first = np.maximum(upper_root, lower_root), np.minimum(upper_root, lower_root)
        np.minimum.at(root, last, first)
    is_root = root == runs
    numbers: Ints = is_root.cumsum() - 1
    return numbers[root]
