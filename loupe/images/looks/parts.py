"""Connected parts of a mask, whose pixels touch by a side or a corner."""

import numpy as np
from numpy.typing import NDArray

from loupe.images.looks.shapes import Mask
from loupe.images.spec import UInt8Array

Ints = NDArray[np.intp]


class Parts:
    """The connected parts of a mask, found from its runs: neighbouring pixels of a row.

    Attributes:
        shape: Height and width of the mask.
        count: Number of parts.
        area: Pixels of each part, shape `(count,)`; as are the edges of its box.
        top, bottom, left, right: First row and column of each part, and those after the last.
    """

    def __init__(self, mask: Mask) -> None:
        self.shape = height, width = mask.shape
        self._stride = width + 2  # so that runs of neighbouring rows never touch at the edges
        padded = np.zeros((height, self._stride), np.int8)
        padded[:, 1 : width + 1] = mask
        steps = padded.ravel()[1:] - padded.ravel()[:-1]
        self._starts = np.flatnonzero(steps == 1) + 1
        self._stops = np.flatnonzero(steps == -1) + 1
        self._part = self._connect()  # of each run
        self.count = int(self._part.max()) + 1 if len(self._part) else 0
        lengths = self._stops - self._starts
        self.area = np.bincount(self._part, lengths, self.count).astype(np.intp)
        self._measure()

    @property
    def height(self) -> Ints:
        """Rows of each part's box."""
        return self.bottom - self.top

    @property
    def width(self) -> Ints:
        """Columns of each part's box."""
        return self.right - self.left

    @property
    def size(self) -> Ints:
        """Longer side of each part's box."""
        return np.maximum(self.height, self.width)

    def mask(self, kept: Mask) -> Mask:
        """Return the pixels of some parts, `kept` of shape `(count,)`."""
        runs = kept[self._part]
        steps = np.zeros(self.shape[0] * self._stride, np.int8)
        steps[self._starts[runs]] = 1
        steps[self._stops[runs]] = -1
        inside = steps.cumsum(dtype=np.int8).reshape(self.shape[0], self._stride)
        return inside[:, 1:-1] > 0

    def box(self, part: int) -> tuple[slice, slice]:
        """Return the rows and columns of one part."""
        return (
            slice(int(self.top[part]), int(self.bottom[part])),
            slice(int(self.left[part]), int(self.right[part])),
        )

    def pixels(self, part: int) -> Mask:
        """Return the pixels of one part, in its box."""
        return self.mask(np.arange(self.count) == part)[self.box(part)]

    def weigh(self, values: UInt8Array) -> Ints:
        """Return the sum of the squared values of each part's pixels."""
        padded = np.zeros((self.shape[0], self._stride), np.int64)
        np.square(values, out=padded[:, 1:-1], dtype=np.int64)
        sums = padded.ravel().cumsum()
        of_runs = sums[self._stops - 1] - sums[self._starts - 1]
        return np.bincount(self._part, of_runs, self.count).astype(np.intp)

    def _connect(self) -> Ints:
        """Return the number of each run's part."""
        first = np.searchsorted(self._stops, self._starts + self._stride)
        after = np.searchsorted(self._starts, self._stops + self._stride, "right")
        neighbours = np.maximum(after - first, 0)  # in the next row
        upper = np.repeat(np.arange(len(neighbours)), neighbours)
        offsets = np.arange(len(upper)) - np.repeat(neighbours.cumsum() - neighbours, neighbours)
        lower = first[upper] + offsets
        root = np.arange(len(neighbours))
        while True:
            lowest = np.minimum(root[upper], root[lower])
            merged = root.copy()
            np.minimum.at(merged, root[upper], lowest)
            np.minimum.at(merged, root[lower], lowest)
            merged = merged[merged]
            if (merged == root).all():
                break
            root = merged
        is_root = root == np.arange(len(root))
        numbers: Ints = is_root.cumsum() - 1
        return numbers[root]

    def _measure(self) -> None:
        rows, columns = self._starts // self._stride, self._starts % self._stride - 1
        stops = self._stops % self._stride - 1
        order = self._part.argsort(kind="stable")
        first = np.searchsorted(self._part[order], np.arange(self.count))
        empty = not self.count

        def reduced(extreme: np.ufunc, values: Ints) -> Ints:
            return values if empty else extreme.reduceat(values[order], first)

        self.top, self.bottom = reduced(np.minimum, rows), reduced(np.maximum, rows) + 1
        self.left, self.right = reduced(np.minimum, columns), reduced(np.maximum, stops)
