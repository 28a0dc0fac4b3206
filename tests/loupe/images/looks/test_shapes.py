"""Growing, shrinking and connecting shapes, against SciPy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from loupe.images.looks.parts import Parts
from loupe.images.looks.shapes import Mask, bounds, dilate, erode
from loupe.images.spec import UInt8Array

SIZES = st.sampled_from([1, 3, 5, 9, 15])
PICTURES = arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)))
MASKS = arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20)))


@given(picture=PICTURES, height=SIZES, width=SIZES)
def test_extremes_are_those_of_scipy(picture: UInt8Array, height: int, width: int) -> None:
    size = (height, width)

    np.testing.assert_array_equal(
        dilate(picture, *size), ndimage.maximum_filter(picture, size, mode="constant", cval=0)
    )
    np.testing.assert_array_equal(
        erode(picture, *size), ndimage.minimum_filter(picture, size, mode="constant", cval=255)
    )


@given(mask=MASKS)
def test_parts_are_those_of_scipy(mask: Mask) -> None:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    parts = Parts.of(mask)

    assert parts.count == count
    found = {
        (parts.top[part], parts.bottom[part], parts.left[part], parts.right[part], parts.area[part])
        for part in range(count)
    }
    assert found == {
        (rows.start, rows.stop, columns.start, columns.stop, (labels == number + 1).sum())
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels))
    }


@given(mask=MASKS, data=st.data())
def test_the_pixels_of_parts_can_be_chosen_and_weighed(mask: Mask, data: st.DataObject) -> None:
    parts = Parts.of(mask)
    values = np.arange(mask.size).reshape(mask.shape).astype(np.uint8)
    weights = parts.weigh(values)
    assert weights.sum() == (values[mask].astype(int) ** 2).sum()

    kept = data.draw(arrays(np.bool_, parts.count))
    chosen = parts.only(kept)

    assert chosen.count == kept.sum()
    assert chosen.area.tolist() == parts.area[kept].tolist()
    assert chosen.top.tolist() == parts.top[kept].tolist()
    if chosen.count:
        pixels = chosen.mask()
        assert not (pixels & ~mask).any()
        assert pixels.sum() == chosen.area.sum()
        assert chosen.region().bounds == bounds(pixels)
        assert Parts.of(pixels).count == chosen.count
        last = chosen.region(chosen.count - 1)
        assert last.mask.sum() == chosen.area[-1]
        assert not (last.in_picture(mask.shape) & ~pixels).any()


def test_bounds_are_the_smallest_box() -> None:
    mask = np.zeros((9, 7), bool)
    mask[2, 5] = mask[6, 1] = True

    assert bounds(mask) == (slice(2, 7), slice(1, 6))
