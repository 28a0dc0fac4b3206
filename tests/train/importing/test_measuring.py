"""Imported models are measured, calibrated, reported and promoted as trained ones."""

from pathlib import Path

import numpy as np
import pytest

from loupe.images.spec import UInt8Array
from loupe.models.engines.loading import load_engine
from loupe.models.store import ONNX_FILE, REPORT_FILE, StoredModel, find_model, labels
from tests.support import pictures
from tests.support.command import Ended, Loupe
from tests.support.onnx_models import convolution, given_answers, photos
from train.data.datasets import load_dataset
from train.data.image_options import ImageOptions
from train.evaluate.calibration import expected_calibration_error
from train.evaluate.evaluation import Evaluation


def digits(loupe: Loupe, model: StoredModel, *arguments: object) -> Ended:
    path = model.folder / ONNX_FILE
    return loupe("models", "import", path, "--look", "ink", "--name", "mine", *arguments)


def test_a_measured_model_has_figures_a_report_and_is_in_production(
    digits_model: StoredModel, store: Path, loupe: Loupe
) -> None:
    ended = digits(loupe, digits_model, "--classes", "0-9", "--test", "digits")
    model = find_model("mine")
    figures, theirs = model.card.measured, digits_model.card.measured

    assert ended.code == 0
    assert f"test accuracy {figures.accuracy:.4f}" in ended.out
    assert (figures.accuracy, figures.test_digest) == (theirs.accuracy, theirs.test_digest)
    assert figures.loss == pytest.approx(theirs.loss, rel=1e-3)
    assert (figures.train_accuracy, figures.training_seconds) == (None, None)
    assert figures.engines_difference < 1e-4
    assert model.card.familiarity is not None
    assert labels() == {model.tag: ["production"]}
    assert model.file(REPORT_FILE)
    report = (model.folder / REPORT_FILE).read_text()
    assert "Test images of all classes" in report
    assert "raining accuracy" not in report
    assert Evaluation.load(model.folder).verdict is None
    assert "trained elsewhere" in (model.folder / "MODEL_CARD.md").read_text()


def test_a_model_without_test_images_is_not_promoted(
    digits_model: StoredModel, store: Path, loupe: Loupe
) -> None:
    ended = digits(loupe, digits_model, "--classes", "0-9")
    model = find_model("mine")

    assert "not measured" in ended.out
    assert model.card.figures is None
    assert model.card.familiarity is None
    assert not labels()
    assert loupe("models", "promote", model.tag).err.startswith("error: not_measured: ")
    assert loupe("models", "promote", model.tag, "--force").code == 0
    assert labels() == {model.tag: ["production"]}


def test_an_inaccurate_model_is_not_saved(
    digits_model: StoredModel, store: Path, loupe: Loupe
) -> None:
    reverse = ",".join(map(str, reversed(range(10))))
    ended = digits(loupe, digits_model, "--classes", reverse, "--test", "digits")

    assert ended.err.startswith("error: accuracy_too_low: ")
    assert not labels()


def overconfident(loupe: Loupe, tmp_path: Path, *options: str) -> StoredModel:
    """Import a random network whose logits are a hundred times too large."""
    path = convolution(tmp_path / "m.onnx", shape=("n", 1, 28, 28))
    folder = pictures.sort_into_folders(tmp_path / "photos", {"a": 60, "b": 60, "c": 60})
    ended = loupe(
        *("models", "import", path, "--classes", "b,c,a", "--look", "ink", "--input", "0..255"),
        *("--test", f"folder:{folder}", "--min-accuracy", 0, *options),
    )
    assert ended.code == 0, ended.err
    return find_model(ended.out.split()[-1])


def test_all_images_of_a_folder_without_splits_measure_the_model(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    model = overconfident(loupe, tmp_path)
    images = load_dataset(f"folder:{tmp_path / 'photos'}", options=ImageOptions(look="ink"))
    predicted = load_engine(model).predict(
        np.concatenate([images.train.images, images.test.images])
    )
    truth = np.concatenate([images.train.labels, images.test.labels])
    names = np.array(model.card.class_names)[predicted.argmax(axis=1)]

    assert model.card.measured.test_images == 180
    assert model.card.measured.accuracy == np.mean(names == np.array(images.class_names)[truth])


def test_photos_in_colour_of_the_size_of_the_model(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 32, 24))
    images = photos(32, 24, 3, count=60)
    names = np.array(["a", "b", "c"]).repeat(20)
    for number, (name, image) in enumerate(zip(names, images, strict=True)):
        (tmp_path / "photos" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name / f"{number}.png").write_bytes(pictures.png(image))
    ended = loupe(
        *("models", "import", path, "--classes", "c,a,b", "--input", "0..1", "--fit", "pad"),
        *("--test", f"folder:{tmp_path / 'photos'}", "--min-accuracy", 0),
    )
    assert ended.code == 0, ended.err
    model = find_model("m")

    given = given_answers(path, (images / np.float32(255)).transpose(0, 3, 1, 2))
    right = np.array(["c", "a", "b"])[given.argmax(axis=1)] == names
    assert model.card.measured.accuracy == right.mean()
    assert (model.card.measured.test_images, model.card.input.fit) == (60, "pad")
    assert str(tmp_path) not in model.card.model_dump_json()


def test_calibration_sets_half_of_the_images_aside(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    raw = overconfident(loupe, tmp_path)
    calibrated = overconfident(loupe, tmp_path, "--calibrate")
    temperature = calibrated.card.config["temperature"]

    assert calibrated.card.measured.test_images == 90
    assert isinstance(temperature, float)
    assert temperature > 2
    assert calibrated.card.measured.calibration_error < raw.card.measured.calibration_error - 0.05
    images: UInt8Array = pictures.digits(50)
    before, after = (load_engine(model).predict(images) for model in (raw, calibrated))
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()
    assert after.max(axis=1).mean() < before.max(axis=1).mean()
    labels_ = np.zeros(50, np.int64)
    assert expected_calibration_error(after, labels_) < expected_calibration_error(before, labels_)


def test_what_test_images_lack_is_said(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 1, 28, 28))
    folder = pictures.sort_into_folders(tmp_path / "photos", {"a": 20, "b": 20})
    (folder / "a" / "broken.png").write_bytes(b"no picture")
    ended = loupe(
        *("models", "import", path, "--classes", "a,b,c", "--look", "ink", "--input", "0..1"),
        *("--test", f"folder:{folder}", "--min-accuracy", 0),
    )

    assert ended.code == 0
    assert "a/broken.png" in ended.err
    assert "no test images of 'c'" in ended.err
    assert find_model("m").card.measured.test_images == 40


def test_images_of_unknown_classes_are_refused(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 1, 28, 28))
    folder = pictures.sort_into_folders(tmp_path / "photos", {"a": 20, "cat": 20, "dog": 20})
    ended = loupe(
        *("models", "import", path, "--classes", "a,b,c", "--look", "ink", "--input", "0..1"),
        *("--test", f"folder:{folder}"),
    )

    assert ended.err.startswith("error: test_set_differs: ")
    assert "'cat', 'dog'" in ended.err
