"""How a model answers disturbed pictures, and what follows for its users."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidImage
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.significance import margin
from train.data.splits import Int64Array, Split
from train.evaluate.robustness import handwriting
from train.evaluate.robustness.corruptions import CORRUPTIONS, corrupt
from train.evaluate.verdict import percent

Source = Literal["test", "picture", "image"]
"""`test`: undisturbed. `picture`: ink on paper, as people send it. `image`: MNIST-C's kinds."""

FEWEST, MOST = 20, 100  # test images of each kind
SHARE = 0.05  # of the test images; fewer are enough for small data sets
SIDE = 120  # pixels of a sheet; larger ones take longer
SURE = 0.9  # confidence of a wrong answer that misleads
BADLY = 0.2  # loss of accuracy
OFTEN = 0.1  # share of the images that is worth a warning

WELL_READ = "It reads these about as well as its test images: {}."
READ = "It makes more mistakes with {}."
NOT_READ = "Do not rely on it with {}."
MISLEADING = "Wrong answers with a confidence above 90 % are frequent with {}."
UNANSWERED = "It often gives no answer with {}."

PHRASES = {
    "plain": "clean paper",
    "frame": "a frame around the ink",
    "shading 30 %": "light shading",
    "shading 60 %": "strong shading",
    "shadow edge": "the edge of a shadow",
    "ruled": "ruled paper",
    "squared": "squared paper",
    "specks": "specks",
    "grain": "grain, as of a dark photo",
    "table": "a sheet on a dark table",
    "sticker": "a light label on a dark thing",
    "tight": "ink up to the edges",
    "screenshot": "a screenshot of a paint program",
    "photo": "shading, blur and grain together",
    "one pixel": "lines of one pixel",
    "ballpoint": "a ballpoint pen",
    "pencil": "a faint pencil",
    "marker": "a thick marker",
    "chalk": "chalk on a board",
    "20 pixels": "20 pixels in all",
    "28 pixels": "28 pixels, not centred",
    "shot noise": "the noise of little light",
    "impulse noise": "black and white dots",
    "glass blur": "frosted glass",
    "motion blur": "motion blur",
    "shear": "a slant",
    "scale": "half the size",
    "rotate": "a turn by 20 to 40°",
    "brightness": "too much light",
    "translate": "a shift",
    "stripe": "an inverted stripe",
    "fog": "fog",
    "spatter": "splashes",
    "dotted line": "a dotted line across",
    "zigzag": "a zigzag line across",
    "canny edges": "outlines alone",
}


@dataclass(frozen=True)
class Disturbance:
    """Answers to test images that were disturbed in one way.

    Attributes:
        kind: A key of `PHRASES`, or `none`.
        source: What was disturbed.
        images: Their number.
        accuracy: Fraction with the right answer.
        unanswered: Fraction without an answer: blank, or several symbols.
        surely_wrong: Fraction with a wrong answer and a confidence above `SURE`.
    """

    kind: str
    source: Source
    images: int
    accuracy: float
    unanswered: float
    surely_wrong: float


def measure(
    test: Split, spec: ImageSpec, predict: Callable[[UInt8Array], Float32Array]
) -> tuple[Disturbance, ...]:
    """Disturb some test images in all ways that suit their look, and count the right answers.

    Each kind gets a twentieth of the images, 20 to 100. For 100, ink takes about 10 s of processor
    time, objects and photos 2 s, besides that of the model.

    Args:
        test: The test split.
        spec: Images of the model.
        predict: The model: uint8 `(n, *shape)` → probabilities, float32 `(n, classes)`.
    """
    count = int(np.clip(SHARE * len(test.labels), FEWEST, MOST))
    rows = np.random.default_rng(0).permutation(len(test.labels))[:count]
    chosen = test.take(rows)
    kinds = list(_disturbed(chosen.images, spec))
    seen = [_seen(pictures, spec) for _, _, pictures in kinds]
    probabilities = predict(np.concatenate([chosen.images, *seen]))
    answers = probabilities.reshape(len(kinds) + 1, len(rows), -1)
    blanks = [np.zeros(len(rows), bool), *map(spec.blank, seen)]
    names = ["none", *(kind for kind, _, _ in kinds)]
    sources: list[Source] = ["test", *(source for _, source, _ in kinds)]
    return tuple(
        _count(name, source, of_kind, chosen.labels, blank)
        for name, source, of_kind, blank in zip(names, sources, answers, blanks, strict=True)
    )


def limits(disturbances: Sequence[Disturbance]) -> list[str]:
    """Say in plain words which pictures a model reads and which it does not."""
    if not disturbances:
        return []
    undisturbed, *others = disturbances
    loss = {each: undisturbed.accuracy - each.accuracy for each in others}
    chance = margin(undisturbed.accuracy, undisturbed.images)
    accuracy, wrong, unanswered = map(attrgetter, ("accuracy", "surely_wrong", "unanswered"))
    groups = [
        (WELL_READ, accuracy, [each for each in others if loss[each] <= chance]),
        (READ, accuracy, [each for each in others if chance < loss[each] <= BADLY]),
        (NOT_READ, accuracy, [each for each in others if loss[each] > BADLY]),
        (MISLEADING, wrong, [each for each in others if each.surely_wrong >= OFTEN]),
        (UNANSWERED, unanswered, [each for each in others if each.unanswered >= OFTEN]),
    ]
    return [
        words.format(", ".join(f"{_phrase(each)} ({percent(share(each), 0)})" for each in group))
        for words, share, group in groups
        if group
    ]


def _phrase(disturbance: Disturbance) -> str:
    return PHRASES.get(disturbance.kind, disturbance.kind)


def _disturbed(
    images: UInt8Array, spec: ImageSpec
) -> Iterator[tuple[str, Source, list[UInt8Array]]]:
    """Yield each kind with its pictures of all images."""
    random = np.random.default_rng(0)
    for kind in handwriting.KINDS if spec.look == "ink" else ():
        drawn = [
            handwriting.draw(kind, image, random, SIDE) if image.any() else image
            for image in images
        ]
        yield kind, "picture", drawn
    for kind in CORRUPTIONS:
        yield kind, "image", [corrupt(kind, image, random) for image in images]


def _seen(pictures: Sequence[UInt8Array], spec: ImageSpec) -> UInt8Array:
    """Return what the model sees of pictures; a picture of several symbols is blank."""
    seen = spec.zeros(len(pictures))
    for row, picture in enumerate(pictures):
        try:
            seen[row] = normalize_pixels(picture, spec)
        except InvalidImage:
            continue
    return seen


def _count(
    kind: str,
    source: Source,
    probabilities: Float32Array,
    labels: Int64Array,
    blank: NDArray[np.bool_],
) -> Disturbance:
    """Return the figures of one kind; `blank` marks images without an answer."""
    right = probabilities.argmax(axis=1) == labels
    sure = probabilities.max(axis=1) > SURE
    return Disturbance(
        kind,
        source,
        len(labels),
        float((right & ~blank).mean()),
        float(blank.mean()),
        float((sure & ~right & ~blank).mean()),
    )
