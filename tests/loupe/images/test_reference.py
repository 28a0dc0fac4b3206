"""The same picture looks the same in every format, mode, depth, order and orientation."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loupe.images.decode import open_picture
from loupe.images.spec import ImageSpec, UInt8Array
from tests.support.files.reference import Case, cases
from tests.support.pictures import SIDE

CASES = cases()
MAX_PIXELS = 10_000
# ImageMagick 6 reads these otherwise; libvips agrees with the table on all that it reads itself,
# except numbers without a white, and a fourth channel that has no meaning.
NOT_IN_IMAGEMAGICK = re.compile(
    "XMP|old ImageMagick|EXIF|(PNG|WEBP) .* turned|no alpha|unused alpha|(AVIF|HEIF) .* alpha"
    "|signed|small numbers|float to 255|inverted (2|4|12|32|float)|something"
)


def shown(data: bytes) -> UInt8Array:
    return np.asarray(open_picture(data, max_pixels=MAX_PIXELS).preview(SIDE))


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the mean difference in levels; 255 for different shapes."""
    if one.shape != other.shape:
        return 255.0
    return float(np.abs(one.astype(int) - other).mean())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_picture_has_its_known_pixels(case: Case) -> None:
    seen = shown(case.data)
    grey = open_picture(case.data, max_pixels=MAX_PIXELS).pixels(ImageSpec("ink"), "off")

    assert difference(seen, case.pixels) <= case.tolerance
    assert difference(grey, np.asarray(Image.fromarray(seen).convert("L"))) <= 1.0


@pytest.fixture(scope="module")
def imagemagick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the cases as ImageMagick shows them; those that it reads."""
    program = shutil.which("magick") or shutil.which("convert")
    if program is None:
        pytest.skip("ImageMagick is not installed")
    files, converted = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("converted")
    for number, case in enumerate(CASES):
        (files / f"{number}{suffix_of(case)}").write_bytes(case.data)
    options = "-auto-orient -background white -alpha remove -alpha off -colorspace sRGB -depth 8"
    options += " -set filename:n %t"
    subprocess.run(
        [program, *sorted(files.iterdir()), *options.split(), f"{converted}/%[filename:n].ppm"],
        capture_output=True,
        check=False,  # some it does not read
    )
    return converted


def suffix_of(case: Case) -> str:
    """Return the suffix by which ImageMagick recognises some formats."""
    return {"ICO": ".ico", "PFM": ".pfm"}.get(case.name.split()[0], "")


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].name)
def test_imagemagick_shows_the_same(number: int, imagemagick: Path) -> None:
    case, path = CASES[number], imagemagick / f"{number}.ppm"
    if NOT_IN_IMAGEMAGICK.search(case.name) or not path.exists():
        pytest.skip("ImageMagick does not read this")
    with Image.open(path) as theirs:
        assert difference(shown(case.data), np.asarray(theirs.convert("RGB"))) <= case.tolerance
