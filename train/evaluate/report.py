"""The report on a model: a self-contained page, its pictures as files, and a model card."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import JsonValue

from loupe.images.spec import Float32Array
from loupe.models.card import ModelCard
from loupe.models.store import REPORT_FILE
from train.data.datasets import Dataset
from train.evaluate import plots, sheets
from train.evaluate.evaluation import ClassMetrics, Evaluation
from train.evaluate.verdict import percent

MARKDOWN_FILE = "MODEL_CARD.md"
PICTURES_FOLDER = "report"
WEAK_CLASSES = 3  # named in the model card


@dataclass(frozen=True)
class Picture:
    """A picture of the report with its texts.

    Attributes:
        name: Name of its file, without suffix.
        title: Heading above it.
        caption: Explains how to read it.
        alt: Describes it to people who cannot see it.
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a `data:` URL."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class ClassRow:
    """A class of the test split, and the class that it is most often confused with."""

    metrics: ClassMetrics
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
    """Write `report.html`, pictures in `report/`, `report.json` and `MODEL_CARD.md` into a folder.

    Args:
        folder: The model's folder.
        evaluation: The model's metrics.
        card: The model card.
        dataset: The data set that the model was trained and evaluated on.
        tag: The model's tag, if it has one.
        pixel_weights: float32, shape `(classes, 28, 28)`; see `train.evaluate.weights`.
        first_filters: float32, shape `(filters, height, width)`; see `train.evaluate.weights`.
    """
    pictures = _pictures(evaluation, dataset, pixel_weights, first_filters)
    (folder / PICTURES_FOLDER).mkdir(exist_ok=True)
    for picture in pictures:
        (folder / PICTURES_FOLDER / f"{picture.name}.png").write_bytes(picture.png)
    environment = _environment()
    rows = class_rows(evaluation)
    values = {
        "evaluation": evaluation,
        "card": card,
        "dataset": dataset,
        "rows": rows,
        "title": tag or f"{card.dataset}, {evaluation.architecture}",
        "pictures": {picture.name: picture for picture in pictures},
        "weakest": _weakest(rows),
    }
    for template, file in (
        ("report.html.jinja", REPORT_FILE),
        ("model_card.md.jinja", MARKDOWN_FILE),
    ):
        text = environment.get_template(template).render(values)
        (folder / file).write_text(text, encoding="utf-8")
    evaluation.save(folder)


def class_rows(evaluation: Evaluation) -> list[ClassRow]:
    """Return the classes of an evaluation, in order."""
    rows = []
    for index, (metrics, counts) in enumerate(
        zip(evaluation.classes, evaluation.confusion, strict=True)
    ):
        mistakes = [0 if column == index else count for column, count in enumerate(counts)]
        times = max(mistakes)
        taken_for = evaluation.class_names[mistakes.index(times)] if times else None
        rows.append(ClassRow(metrics, taken_for, times))
    return rows


def _weakest(rows: list[ClassRow]) -> list[ClassRow]:
    """Return the classes with the lowest recall that have mistakes."""
    mistaken = [row for row in rows if row.metrics.recall is not None and row.taken_for is not None]
    return sorted(mistaken, key=lambda row: row.metrics.recall or 0.0)[:WEAK_CLASSES]


def _pictures(
    evaluation: Evaluation,
    dataset: Dataset,
    pixel_weights: Float32Array | None,
    first_filters: Float32Array | None,
) -> list[Picture]:
    names, calibration = evaluation.class_names, evaluation.calibration
    pictures = []
    if evaluation.history and evaluation.best_epoch:
        curves = plots.learning_curves(evaluation.history, evaluation.best_epoch)
        pictures.append(Picture(*LEARNING_CURVES, curves))
    matrix = plots.confusion_matrix(evaluation.confusion, names)
    pictures.append(Picture(*CONFUSION_MATRIX, matrix))
    if evaluation.mistakes:
        mistakes = sheets.mistake_sheet(dataset.test.images, evaluation.mistakes, names)
        pictures.append(Picture(*MISTAKES, mistakes))
    diagram = plots.reliability_diagram(
        calibration.bins_before, calibration.bins_after, calibration.temperature
    )
    pictures.append(Picture(*RELIABILITY, diagram))
    samples = sheets.sample_sheet(dataset.train.images, dataset.train.labels, names)
    pictures.append(Picture(*SAMPLES, samples))
    if pixel_weights is not None:
        pictures.append(Picture(*WEIGHTS, sheets.weight_images(pixel_weights, names)))
    if first_filters is not None:
        pictures.append(Picture(*FILTERS, sheets.filters(first_filters)))
    return pictures


# Name, title, caption and alternative text of each picture.
LEARNING_CURVES = (
    "learning-curves",
    "Learning curves",
    "Blue: training images, during each epoch, with dropout and augmentation. Orange: validation "
    "images, after each epoch. While both losses fall, the model learns what holds for all images; "
    "if blue falls and orange rises, it memorises the training images. The dashed line marks the "
    "epoch whose weights were kept.",
    "Loss and accuracy of the training and the validation split over the epochs",
)
CONFUSION_MATRIX = (
    "confusion-matrix",
    "Confusion matrix",
    "Rows are the true classes of the test images, columns the predicted ones. The diagonal is "
    "right, everything else is a mistake; colours show the fraction of the row. Empty cells are 0.",
    "Number of test images by true and predicted class",
)
MISTAKES = (
    "mistakes",
    "The most confident mistakes",
    "Test images with wrong predictions of the highest confidence: the true class, then the "
    "predicted one and its confidence. They show wrong labels, pictures of two things, and classes "
    "that even people cannot tell apart.",
    "Test images with wrong predictions of the highest confidence",
)
RELIABILITY = (
    "reliability",
    "Calibration",
    "Test images are grouped by confidence. Of those with a confidence of 80 %, about 80 % should "
    "be right: then the bar ends on the dashed line. Below the line, the model is over-confident; "
    f"above it, under-confident. Pale bars hold fewer than {plots.MIN_BIN_IMAGES} images and say "
    "little; the numbers at the bottom count the images.",
    "Accuracy over confidence before and after temperature scaling",
)
SAMPLES = (
    "samples",
    "Training images",
    "Training images of all classes with their labels, as the model gets them: 28 × 28 pixels.",
    "Samples of the training images with their labels",
)
WEIGHTS = (
    "weights",
    "Weights of each class",
    "One weight per pixel and class. Ink on red speaks for the class, ink on blue against it, and "
    "on white it makes no difference.",
    "The weights of each class as an image",
)
FILTERS = (
    "filters",
    "Filters of the first convolution",
    "The patterns that the first convolution looks for everywhere in an image: ink on red increases "
    "its output, ink on blue decreases it. Red beside blue finds edges, one colour finds filled "
    "areas.",
    "The kernels of the first convolution",
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
    return "–" if value is None else percent(value)


def _option(value: JsonValue) -> str:
    """Format a value of the configuration."""
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _markdown(text: object) -> str:
    """Escape text for Markdown, also within tables."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(str(text).split()))
