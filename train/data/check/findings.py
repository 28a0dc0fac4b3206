"""The findings about the images of a data set, as a table and as a sheet."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from loupe.drawing import INK, LARGE, MEDIUM, ORANGE, Text, Tile, TileSheet, legible
from loupe.images.spec import Float32Array, UInt8Array
from train.data.check.neighbours import Neighbours, find_neighbours, oddness, suspects
from train.data.repeats import MAX_DIFFERENCE
from train.data.splits import Dataset, Split

Problem = Literal["label", "repeat", "blank", "odd"]
PROBLEMS: dict[Problem, str] = {
    "label": "labels that are probably wrong",
    "repeat": "repeats of other images",
    "blank": "blank images",
    "odd": "odd images, unlike all others of their class",
}
HEADER = ("split", "image", "problem", "label", "was", "note")
BLANK_RANGE = 10  # grey levels between the darkest and the lightest pixel
ODD = 4.5  # of `oddness`
MAX_ODD = 100  # images; a wide class has a long tail
MIN_AGREEMENT = 0.7  # of labels with those of the neighbours; with less, neighbours say nothing
COLUMNS, ROWS = 8, 3  # of each problem, on the sheet


@dataclass(frozen=True)
class Finding:
    """A problem of an image, and a correction.

    Attributes:
        problem: What is suspected.
        split: Split of the image.
        image: Its file or number.
        was: Its class.
        label: The class to give it; empty to leave it out.
        note: The reason.
        pixels: The image, uint8 `(height, width[, 3])`.
    """

    problem: Problem
    split: str
    image: str
    was: str
    label: str
    note: str
    pixels: UInt8Array


@dataclass(frozen=True)
class Check:
    """The findings of a data set, by problem, the surest first.

    Attributes:
        agreement: Share of the labels that agree with most neighbours, 0..1. Below `MIN_AGREEMENT`,
            no labels are suspected.
    """

    findings: list[Finding]
    agreement: float


class Images:
    """The images of all splits in one array.

    Attributes:
        all: The images, those of the training split first.
        splits: Name of the split of each one.
    """

    def __init__(self, dataset: Dataset) -> None:
        splits = dataset.splits()
        self.class_names = dataset.class_names
        self._numbers = np.concatenate([np.arange(len(each.labels)) for each in splits.values()])
        self.splits = np.repeat(list(splits), [len(each.labels) for each in splits.values()])
        self.all: Split = dataset.train
        for other in list(splits.values())[1:]:
            self.all = self.all.concatenate(other)
        self._full_ink = dataset.full_ink

    def name(self, row: int) -> str:
        """Return the file of an image, or its number in its split."""
        return str(self.all.names[row]) or f"image {self._numbers[row] + 1:,}"

    def finding(self, problem: Problem, row: int, label: str, note: str) -> Finding:
        """Return a finding about an image."""
        was = self.class_names[self.all.labels[row]]
        pixels = (self.all.images[row] * (255 / self._full_ink)).astype(np.uint8)
        return Finding(problem, str(self.splits[row]), self.name(row), was, label, note, pixels)


def check_images(dataset: Dataset) -> Check:
    """Look for wrong labels, repeats, blank and odd images."""
    images = Images(dataset)
    blank = np.flatnonzero(_ranges(images.all.images) < BLANK_RANGE)
    neighbours = find_neighbours(images.all.images)
    repeats = _repeats(images.all.images, neighbours, blank)
    shares = neighbours.probabilities(images.all.labels, len(images.class_names))
    agreement = float((shares.argmax(axis=1) == images.all.labels).mean())
    findings = [
        *(_wrong_labels(images, shares, blank) if agreement >= MIN_AGREEMENT else ()),
        *(
            images.finding("repeat", row, "", f"like {images.name(first)}, {images.splits[first]}")
            for row, first in repeats.items()
        ),
        *(images.finding("blank", row, "", "one tone") for row in blank.tolist()),
        *_odd(images, neighbours, blank),
    ]
    return Check(findings, agreement)


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as CSV, for `--relabel`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for each in findings:
        writer.writerow((each.split, each.image, each.problem, each.label, each.was, each.note))
    return text.getvalue()


def sheet(dataset: Dataset, findings: Sequence[Finding]) -> TileSheet:
    """Return a sheet with the first findings of each problem."""
    tiles: list[Tile | None] = []
    titles: list[Sequence[Text]] = []
    for problem in PROBLEMS:
        of_problem = [each for each in findings if each.problem == problem]
        shown = [_tile(each) for each in of_problem[: COLUMNS * ROWS]]
        if shown:
            rows = -(-len(shown) // COLUMNS)
            tiles += [*shown, *[None] * (rows * COLUMNS - len(shown))]
            titles += [
                (Text(problem, MEDIUM, INK), Text(f"{len(of_problem):,}")),
                *[()] * (rows - 1),
            ]
    counted = f"{len(findings):,} findings; {sum(tile is not None for tile in tiles)} are shown"
    title = (Text(f"{dataset.name}: suspicious images", LARGE, INK), Text(counted))
    return TileSheet(tiles or [Tile(None)], COLUMNS, title=title, row_titles=titles)


def _tile(finding: Finding) -> Tile:
    above = [Text(legible(finding.was, 0), MEDIUM, INK)]
    if finding.label not in ("", finding.was):
        above.append(Text(f"→ {legible(finding.label, 0)}", MEDIUM, ORANGE))
    grey = finding.pixels.ndim == 2
    shown = np.stack([finding.pixels] * 3, axis=2) if grey else finding.pixels  # arrows in colour
    return Tile(shown, above, (Text(finding.image), Text(finding.note)))


def _wrong_labels(images: Images, shares: Float32Array, blank: NDArray[np.intp]) -> list[Finding]:
    rows, likely = suspects(shares, images.all.labels)
    return [
        images.finding("label", row, name, f"{100 * shares[row, best]:.0f} % of neighbours")
        for row, best in zip(rows.tolist(), likely.tolist(), strict=True)
        if row not in blank
        for name in (images.class_names[best],)
    ]


def _repeats(images: UInt8Array, neighbours: Neighbours, blank: NDArray[np.intp]) -> dict[int, int]:
    """Return rows with an earlier row of the same image, or nearly the same."""
    found: dict[int, int] = {}
    skipped = set(blank.tolist())
    for row, place in np.argwhere(neighbours.distances <= MAX_DIFFERENCE).tolist():
        pair = row, int(neighbours.rows[row, place])
        first, later = min(pair), max(pair)
        if later not in found and first not in skipped:
            difference = images[first].astype(np.float32) - images[later]
            if np.square(difference).mean() <= MAX_DIFFERENCE**2:
                found[later] = first
    return found


def _odd(images: Images, neighbours: Neighbours, blank: NDArray[np.intp]) -> list[Finding]:
    scores = oddness(neighbours, images.all.labels)
    scores[blank] = 0
    rows = np.argsort(-scores, kind="stable")[:MAX_ODD]
    return [
        images.finding("odd", row, images.class_names[images.all.labels[row]], "keep, or change")
        for row in rows.tolist()
        if scores[row] > ODD
    ]


def _ranges(images: UInt8Array) -> NDArray[np.int64]:
    """Return the difference between the lightest and the darkest value of each image."""
    flat = images.reshape(len(images), -1)
    return np.asarray(flat.max(axis=1).astype(np.int64) - flat.min(axis=1))
