"""Pictures of nothing that a data set teaches: letters, shapes, scribbles, noise and negatives.

A model that is trained to have no opinion on them is less sure of other foreign pictures, too.
Source: Hendrycks et al., "Deep Anomaly Detection with Outlier Exposure", 2019.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from loupe.errors import InvalidImage
from loupe.images.looks.scaling import scaled
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec, UInt8Array
from train.data.splits import Dataset

CANVAS = 64  # pixels of the side of a drawing
# Matplotlib brings these, so every machine draws the same letters.
FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
    "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic", "cmr10", "cmti10", "cmtt10",
)  # fmt: skip
# Those that no digit looks like.
LETTERS = "ACDEFGHJKLMNPQRUVWXYadefhkmnprtuvwxy&#@?%+=*"
GREEK = "ΓΔΛΞΠΣΦΨΩαβγηκλμνπτφχψωЖФЮЯДЩ"  # not in the fonts of TeX
LIKE_DIGITS = "BIOSZbgijloqsz1234567890"
DIGITS = frozenset("0123456789")
POINTS = (4, 12)  # of a scribble or a polygon; fewer may be a 1 or a 7

# Data sets whose models are trained with outliers by default: those with which it was measured, and
# others of the same kind.
TRAINED_WITH = frozenset({"fashion-mnist", "mnist", "kmnist", "emnist", "digits"})
SHARE = 0.1  # of the training images; more was no better

Random = np.random.Generator
Kind = Callable[[Dataset, Random], UInt8Array]


def default_share(dataset: Dataset) -> float:
    """Return how many outliers per training image a model gets by default."""
    return SHARE if dataset.name in TRAINED_WITH else 0.0


def draw_outliers(dataset: Dataset, count: int, seed: int) -> UInt8Array:
    """Return pictures that belong to no class of a data set.

    Args:
        dataset: Its training images give some of the pieces.
        count: Number of pictures.
        seed: The same seed gives the same pictures.

    Returns:
        uint8, shape `(count, *dataset.spec.shape)`, normalised as users' pictures are.
    """
    random = np.random.default_rng([seed, count])
    kinds = _kinds(dataset)
    pictures = [_drawn(kinds[index % len(kinds)], dataset, random) for index in range(count)]
    return dataset.spec.stack(pictures)


def _kinds(dataset: Dataset) -> Sequence[Kind]:
    kinds: list[Kind] = [_shape, _scribble, _noise, _noise, _four, _negative]
    if set(dataset.class_names).isdisjoint("ABC"):
        kinds += [_letter, _letter]
    if dataset.look == "object":
        kinds.append(_upside_down)
    return kinds


def _drawn(kind: Kind, dataset: Dataset, random: Random) -> UInt8Array:
    """Return a picture of a kind that the model can see, in as many attempts as it takes."""
    while True:
        try:
            image = kind(dataset, random)
        except InvalidImage:  # it has several symbols
            continue
        if image.max() > 0:
            return image


def _sample(dataset: Dataset, random: Random) -> UInt8Array:
    image: UInt8Array = dataset.train.images[random.integers(len(dataset.train.labels))]
    return image


def _as_users_picture(drawing: Image.Image, spec: ImageSpec, random: Random) -> UInt8Array:
    """Turn, blur and normalise a drawing of light ink on a dark ground."""
    turned = drawing.rotate(random.uniform(-20, 20), Image.Resampling.BILINEAR)
    grey = np.asarray(turned.convert("RGB" if spec.channels == 3 else "L"))
    if spec.channels == 3:
        colours = random.integers(0, 256, (2, 3))
        grey = (colours[0] + grey / 255 * (colours[1] - colours[0])).astype(np.uint8)
    elif spec.look == "object":
        return scaled(grey, (spec.height, spec.width), (0, 0, CANVAS, CANVAS))
    return normalize_pixels(grey, spec)


def _canvas() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    drawing = Image.new("L", (CANVAS, CANVAS))
    return drawing, ImageDraw.Draw(drawing)


def _letter(dataset: Dataset, random: Random) -> UInt8Array:
    font = FONTS[random.integers(len(FONTS))]
    letters = LETTERS if font.startswith("cm") else LETTERS + GREEK
    if DIGITS.isdisjoint(dataset.class_names):
        letters += LIKE_DIGITS
    drawing, pen = _canvas()
    pen.text(
        (CANVAS / 2, CANVAS / 2),
        letters[random.integers(len(letters))],
        fill=int(random.integers(128, 256)),
        font=_font(font, int(random.integers(24, 60))),
        anchor="mm",
        stroke_width=int(random.integers(0, 3)),
    )
    return _as_users_picture(drawing, dataset.spec, random)


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path(), "fonts", "ttf", f"{name}.ttf"), size)


def _points(random: Random) -> list[tuple[float, float]]:
    points = random.uniform(4, CANVAS - 4, (random.integers(*POINTS), 2))
    return [(x, y) for x, y in points.tolist()]


def _scribble(dataset: Dataset, random: Random) -> UInt8Array:
    """Draw a curve, or several strokes, through random points."""
    drawing, pen = _canvas()
    for _ in range(random.integers(1, 4)):
        corners = np.array(_points(random)).T
        steps = np.linspace(0, corners.shape[1] - 1, 80)
        path = [np.interp(steps, np.arange(corners.shape[1]), each) for each in corners]
        if random.random() < 0.7:  # round the corners
            path = [np.convolve(each, np.ones(15) / 15, "valid") for each in path]
        pen.line(list(zip(*path, strict=True)), fill=255, width=int(random.integers(2, 8)))
    return _as_users_picture(drawing, dataset.spec, random)


def _shape(dataset: Dataset, random: Random) -> UInt8Array:
    """Draw a polygon, a frame, a disc, a grid or dots, filled or not."""
    drawing, pen = _canvas()
    fill = 255 if random.random() < 0.4 else None
    width = int(random.integers(2, 8))
    box = (*random.uniform(2, 24, 2), *random.uniform(40, CANVAS - 2, 2))
    kind = random.integers(5)
    if kind == 0:
        pen.polygon(_points(random), fill=fill, outline=255, width=width)
    elif kind == 1:
        pen.rectangle(box, fill=fill, outline=255, width=width)
    elif kind == 2:
        pen.ellipse(box, fill=255)
    elif kind == 3:
        gap = int(random.integers(6, 20))
        for at in range(gap, CANVAS, gap):
            pen.line((at, 0, at, CANVAS), fill=255, width=min(width, gap // 3))
            if fill:
                pen.line((0, at, CANVAS, at), fill=255, width=min(width, gap // 3))
    else:
        for _ in range(random.integers(3, 20)):
            x, y = random.uniform(4, CANVAS - 8, 2)
            pen.ellipse((x, y, x + width, y + width), fill=255)
    return _as_users_picture(drawing, dataset.spec, random)


def _noise(dataset: Dataset, random: Random) -> UInt8Array:
    """Return noise of any grain and contrast, unchanged or as a picture."""
    shape = dataset.spec.shape
    grains = max(2, int(shape[0] * random.choice([1, 1, 1 / 2, 1 / 4, 1 / 8])))
    noise = random.integers(0, 256, (grains, grains, *shape[2:]), np.uint8)
    if random.random() < 0.25:
        noise = np.where(noise < random.integers(16, 240), 0, 255).astype(np.uint8)
    if random.random() < 0.25:
        noise = (noise * random.uniform(0.2, 1)).astype(np.uint8)
    resampling = Image.Resampling.NEAREST if random.random() < 0.3 else Image.Resampling.BILINEAR
    grown = np.asarray(Image.fromarray(noise).resize((shape[1], shape[0]), resampling))
    return grown if random.random() < 0.6 else normalize_pixels(grown, dataset.spec)


def _four(dataset: Dataset, random: Random) -> UInt8Array:
    """Return four images, reduced, in one."""
    height, width = dataset.spec.height // 2, dataset.spec.width // 2
    sheet = np.zeros(dataset.spec.shape, np.uint8)
    for top, left in ((0, 0), (0, width), (height, 0), (height, width)):
        small = np.asarray(Image.fromarray(_sample(dataset, random)).resize((width, height)))
        sheet[top : top + height, left : left + width] = small
    return sheet


def _negative(dataset: Dataset, random: Random) -> UInt8Array:
    return 255 - _sample(dataset, random)


def _upside_down(dataset: Dataset, random: Random) -> UInt8Array:
    return _sample(dataset, random)[::-1]
