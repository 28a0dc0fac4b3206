"""The report on a model, for people: a page that needs no network, its pictures as files, and a model card in Markdown."""

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import JsonValue

from loupe.images.spec import Float32Array
from loupe.models.card import ModelCard
from loupe.models.store import REPORT_FILE
from train.data.datasets import Dataset
from train.evaluate import plots, sheets
from train.evaluate.evaluation import ClassFigures, Evaluation
from train.evaluate.verdict import percent

MARKDOWN_FILE = "MODEL_CARD.md"
PICTURES_FOLDER = "report"
WEAKEST = 3  # classes that the model card warns of


@dataclass(frozen=True)
class Picture:
    """A picture of the report and what is said about it.

    Attributes:
        name: Of its file, without suffix.
        caption: How to read it.
        alt: What is told to those who cannot see it.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture itself, as an address that needs no network."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class ClassRow:
    """A class of the test split, and what it is most often taken for by mistake."""

    figures: ClassFigures
    taken_for: str | None
    times: int


def write_report(
    folder: Path,
    evaluation: Evaluation,
    card: ModelCard,
    dataset: Dataset,
    *,
    tag: str | None = None,
    pixel_weights: Float32Array | None = None,
    first_filters: Float32Array | None = None,
) -> None:
    """Write `report.html`, its pictures in `report/`, `report.json` and `MODEL_CARD.md` into a model's folder.

    Args:
        dataset: What the model was trained on and measured with; its images are shown.
        tag: Of the model, if it is known yet.
        pixel_weights: float32, shape `(classes, 28, 28)`; see `train.weights`.
        first_filters: float32, shape `(filters, height, width)`; see `train.weights`.
    """
    pictures = list(_pictures(evaluation, dataset, pixel_weights, first_filters))
    (folder / PICTURES_FOLDER).mkdir(exist_ok=True)
    for picture in pictures:
        (folder / PICTURES_FOLDER / f"{picture.name}.png").write_bytes(picture.png)
    environment = _environment()
    rows = class_rows(evaluation)
    known = {
        "evaluation": evaluation,
        "card": card,
        "dataset": dataset,
        "rows": rows,
        "title": tag or f"{card.dataset}, {evaluation.architecture}",
    }
    page = environment.get_template("report.html.jinja").render(
        known, pictures={picture.name: picture for picture in pictures}
    )
    (folder / REPORT_FILE).write_text(page, encoding="utf-8")
    markdown = environment.get_template("model_card.md.jinja").render(known, weakest=_weakest(rows))
    (folder / MARKDOWN_FILE).write_text(markdown, encoding="utf-8")
    evaluation.save(folder)


def class_rows(evaluation: Evaluation) -> list[ClassRow]:
    """The classes of an evaluation, in their order."""
    rows = []
    for index, (figures, counts) in enumerate(
        zip(evaluation.classes, evaluation.confusion, strict=True)
    ):
        others = [0 if column == index else count for column, count in enumerate(counts)]
        times = max(others)
        rows.append(
            ClassRow(figures, evaluation.class_names[others.index(times)] if times else None, times)
        )
    return rows


def _weakest(rows: list[ClassRow]) -> list[ClassRow]:
    """The classes with the lowest recall, of those that are ever mistaken."""
    mistaken = [row for row in rows if row.figures.recall is not None and row.taken_for is not None]
    return sorted(mistaken, key=lambda row: row.figures.recall or 0.0)[:WEAKEST]


def _pictures(
    evaluation: Evaluation,
    dataset: Dataset,
    pixel_weights: Float32Array | None,
    first_filters: Float32Array | None,
) -> Iterator[Picture]:
    names, calibration = evaluation.class_names, evaluation.calibration
    if evaluation.history and evaluation.best_epoch:
        yield Picture(
            "learning-curves",
            "Learning curves",
            "Blue: the images it learns from, measured while it learns, with dropout and augmentation on. Orange: images held back "
            "for validation. As long as both loss curves fall, it learns what holds for all images; where blue falls on and orange "
            "rises, it learns its own images by heart. The dashed line is the epoch whose weights were kept.",
            "Loss and accuracy of the training and the validation split over the epochs",
            plots.learning_curves(evaluation.history, evaluation.best_epoch),
        )
    yield Picture(
        "confusion-matrix",
        "Confusion matrix",
        "Each row holds the test images of one class, each column what they were taken for. The diagonal is right, everything beside "
        "it is a mistake; the stronger the colour, the larger the share of the row. Empty cells are zero.",
        "How many test images of each class were taken for which class",
        plots.confusion_matrix(evaluation.confusion, names),
    )
    if evaluation.mistakes:
        yield Picture(
            "mistakes",
            "The worst mistakes",
            "Test images it was surest about and wrong: what the image is, then what it was taken for and how surely. Look here for "
            "wrong labels, pictures that show two things, and classes that even people cannot tell apart.",
            "Test images that were taken for another class with the greatest confidence",
            sheets.mistake_sheet(dataset.test.images, evaluation.mistakes, names),
        )
    yield Picture(
        "reliability",
        "Can its confidence be trusted?",
        "Test images are sorted into bins by how sure the model is. Of those it gives 80 %, it should be right about 80 %: then a bar "
        "ends on the dashed line. Bars below the line mean too sure, above it not sure enough. Pale bars hold "
        f"fewer than {plots.FEW_IMAGES} images and say little; the numbers below count them.",
        "Accuracy against confidence before and after temperature scaling",
        plots.reliability_diagram(
            calibration.bins_before, calibration.bins_after, calibration.temperature
        ),
    )
    yield Picture(
        "samples",
        "What it was trained on",
        "Training images and their labels, evenly from all classes, as the model gets them: 28 × 28 pixels, ink against background.",
        "Samples of the training images with their labels",
        sheets.sample_sheet(dataset.train.images, dataset.train.labels, names),
    )
    if pixel_weights is not None:
        yield Picture(
            "weights",
            "What each class looks for",
            "One weight for each pixel and class. Ink on red speaks for the class, ink on blue against it, and where there is no "
            "colour, ink makes no difference.",
            "The weights of each class as an image",
            sheets.weight_images(pixel_weights, names),
        )
    if first_filters is not None:
        yield Picture(
            "filters",
            "The first filters",
            "The small patterns that the first convolution looks for everywhere in an image: ink on red strengthens its answer, ink "
            "on blue weakens it. Red on one side and blue on the other finds edges, one colour all over finds filled areas.",
            "The kernels of the first convolution",
            sheets.filters(first_filters),
        )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(("html.jinja",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "percent": percent,
        "share": _share,
        "option": _option,
        "markdown": _markdown,
    }
    return environment


def _share(value: float | None) -> str:
    """A share, or a dash where there is none."""
    return "–" if value is None else percent(value)


def _option(value: JsonValue) -> str:
    """A value of the configuration, as people write it."""
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _markdown(text: object) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(str(text).split()))
