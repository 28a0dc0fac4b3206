"""Charts and sheets: PNG files for any number of classes and any name, without warnings."""

import io
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from loupe.drawing import ORANGE
from tests.support import pictures
from train.evaluate import plots, sheets
from train.evaluate.calibration import Bin, reliability
from train.evaluate.evaluation import Epoch, Mistake
from train.evaluate.plots import axis_label

NAMES = (
    "$5 and $6",
    "シャツ",
    "a class whose name is much longer than the picture",
    "<script>",
    "two\nlines",
    "é ß",
    "$x^{",
    "",
)


def decoded(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png))
    image.load()
    assert image.format == "PNG"
    return image.convert("RGB")


def names(count: int) -> Sequence[str]:
    return [*NAMES, *(f"class {index}" for index in range(count))][:count]


def epoch(number: int, validation: float | None = 0.4) -> Epoch:
    return Epoch(number, 1 / number, 1 - 0.3 / number, validation, validation, 0.001, 1.0)


def of_colour(image: Image.Image, colour: str) -> int:
    """Count the pixels with exactly this colour."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return int((np.asarray(image) == (red, green, blue)).all(axis=2).sum())


@pytest.mark.parametrize("count", [1, 2, 50])
def test_learning_curves_are_drawn_for_any_number_of_epochs(count: int) -> None:
    image = decoded(
        plots.learning_curves([epoch(number) for number in range(1, count + 1)], best_epoch=count)
    )

    assert of_colour(image, plots.BLUE) > 10
    assert of_colour(image, ORANGE) > 10


def test_learning_curves_without_validation_have_one_line() -> None:
    image = decoded(plots.learning_curves([epoch(1, None), epoch(2, None)], best_epoch=2))

    assert of_colour(image, plots.BLUE) > 10
    assert of_colour(image, ORANGE) == 0


@pytest.mark.parametrize("classes", [2, 10, 30, 45])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(classes: int) -> None:
    matrix = np.eye(classes, dtype=int) * 1000
    matrix[0, -1] = 3
    matrix[-1] = 0  # a class without a test image
    image = decoded(plots.confusion_matrix(matrix.tolist(), names(classes)))

    assert 300 < image.height < 2000
    assert 300 < image.width < 2200


def test_a_reliability_diagram_is_drawn_for_one_bin_or_many() -> None:
    decoded(
        plots.reliability_diagram(
            [Bin(14 / 15, 1, 0.99, 1, 5)], [Bin(13 / 15, 14 / 15, 0.9, 1, 5)], 1.5
        )
    )
    probabilities = np.random.default_rng(0).dirichlet(np.full(4, 0.3), 500)
    bins = reliability(probabilities, np.zeros(500, np.int64))

    assert decoded(plots.reliability_diagram(bins, bins, 1.0)).width == plots.WIDTH * plots.DPI


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (40, 3), (200, 10), (200, 100)])
def test_samples_are_drawn_for_any_number_of_images(images: int, classes: int) -> None:
    labels = np.arange(images) % classes

    decoded(sheets.sample_sheet(pictures.digits(images), labels, names(classes), "ink"))


def test_samples_are_drawn_evenly_from_all_classes() -> None:
    labels = np.repeat([0, 1, 2], [500, 4, 60])
    chosen = labels[sheets.choose_evenly(labels, 30)]

    assert np.bincount(chosen).tolist() == [13, 4, 13]
    assert (np.diff(chosen) >= 0).all()
    assert len(set(sheets.choose_evenly(labels, 30).tolist())) == 30


@pytest.mark.parametrize("count", [1, 40])
def test_mistakes_are_drawn_for_any_number(count: int) -> None:
    mistakes = [
        Mistake(index, index % 7, (index + 1) % 7, 1 - index / 1000) for index in range(count)
    ]

    decoded(sheets.mistake_sheet(pictures.digits(50), mistakes, names(7), "ink"))


@pytest.mark.parametrize("classes", [2, 10, 70])
def test_weights_are_drawn_in_red_and_blue(classes: int) -> None:
    weights = np.zeros((classes, 28, 28), np.float32)
    weights[0, :14], weights[0, 14:] = 1, -1
    image = np.asarray(decoded(sheets.weight_images(weights, names(classes)))).astype(int)

    assert ((image[..., 0] - image[..., 2]) > 60).any()  # red
    assert ((image[..., 2] - image[..., 0]) > 60).any()  # blue


@pytest.mark.parametrize("shape", [(1, 3, 3), (32, 3, 3), (100, 5, 5)])
def test_filters_are_drawn_for_any_number(shape: tuple[int, int, int]) -> None:
    decoded(sheets.filters(np.random.default_rng(0).normal(size=shape).astype(np.float32)))


def test_weights_that_are_all_zero_are_drawn() -> None:
    decoded(sheets.filters(np.zeros((4, 3, 3), np.float32)))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ankle boot", "Ankle boot"),
        ("naïve ß Ж", "naïve ß Ж"),
        ("twenty characters ok", "twenty characters ok"),
        ("twenty-one characters", "twenty-one characte…"),
        ("\ue000", "#7"),
        ("two\nlines", "#7"),
        ("", "#7"),
    ],
)
def test_names_are_cut_or_replaced_by_a_number(name: str, shown: str) -> None:
    assert axis_label(name, 7) == shown


def draw_filters() -> bytes:
    return sheets.filters(np.ones((2, 3, 3), np.float32))


def draw_curves() -> bytes:
    return plots.learning_curves([epoch(1), epoch(2)], 2)


@pytest.mark.parametrize("draw", [draw_filters, draw_curves])
def test_drawing_does_not_change_global_style(draw: Callable[[], bytes]) -> None:
    before = {key: mpl.rcParams[key] for key in plots.STYLE}
    first = draw()

    assert {key: mpl.rcParams[key] for key in plots.STYLE} == before
    assert draw() == first
