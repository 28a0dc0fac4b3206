"""Export: models whose engines disagree are not saved."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from scipy.special import softmax

from loupe.errors import NotWritable, ProgramFailed
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.card import digest
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.engines.tensorflow import TensorflowEngine
from loupe.models.store import StoredModel, list_models
from tests.support import pictures
from train.config import recipe
from train.evaluate import gate
from train.evaluate.gate import COMPARISON_BATCH, TOLERANCE, compare
from train.fit import export, training
from train.nets.architectures import build
from train.nets.inference import to_inference_model


@dataclass(frozen=True)
class Brightness:
    """An engine of three classes whose probabilities depend on the brightness, plus an error."""

    added: float = 0.0
    first: int = 0  # index of the first image that has the error

    def predict(self, images: UInt8Array) -> Float32Array:
        light = images.mean(axis=(1, 2)) / 255
        probabilities = np.stack([light / 2, (1 - light) / 2, np.full(len(images), 0.5)], axis=1)
        probabilities[self.first :, 0] += self.added
        probabilities[self.first :, 2] -= self.added
        return np.asarray(probabilities, np.float32)


@dataclass(frozen=True)
class Always:
    """An engine that always returns the same probabilities."""

    row: tuple[float, ...]

    def predict(self, images: UInt8Array) -> Float32Array:
        return np.tile(np.array(self.row, np.float32), (len(images), 1))


SPEC = ImageSpec("ink")
IMAGES = pictures.digits(COMPARISON_BATCH + 100)  # more than one batch


def untrained() -> keras.Model:
    """Return a model of three classes, from images to logits."""
    return to_inference_model(build((28, 28), 3, recipe("cnn-small")), mirrored=False)


def test_equal_engines_have_no_difference() -> None:
    assert compare(Brightness(), Brightness(), IMAGES) == 0


def test_a_small_difference_is_accepted_and_returned() -> None:
    assert compare(Brightness(), Brightness(added=TOLERANCE / 2), IMAGES) == pytest.approx(
        TOLERANCE / 2, rel=0.01
    )


def test_comparing_no_images_raises() -> None:
    with pytest.raises(ValueError, match="concatenate"):  # a test split is never empty
        compare(Brightness(), Brightness(), IMAGES[:0])


def test_a_large_difference_is_refused() -> None:
    with pytest.raises(ProgramFailed, match=r"0\.001 .*0\.0001.* 0 labels") as raised:
        compare(Brightness(), Brightness(added=0.001), IMAGES)

    assert raised.value.code == "engines_disagree"


def test_a_difference_in_the_last_image_alone_is_refused() -> None:
    with pytest.raises(ProgramFailed, match=r"0\.001"):
        compare(Brightness(), Brightness(added=0.001, first=-1), IMAGES)


def test_probabilities_of_nan_are_refused() -> None:
    with pytest.raises(ProgramFailed, match="nan"):
        compare(Brightness(), Always((np.nan, 0.5, 0.5)), IMAGES)
    with pytest.raises(ProgramFailed, match="nan"):
        compare(Always((np.nan, 0.5, 0.5)), Always((np.nan, 0.5, 0.5)), IMAGES)


def test_another_label_counts_only_if_the_two_best_classes_are_apart() -> None:
    near = 0.3 * TOLERANCE
    assert compare(Always((0.5 + near, 0.5 - near)), Always((0.5 - near, 0.5 + near)), IMAGES) > 0

    with pytest.raises(ProgramFailed, match=rf"0\.2 .* {len(IMAGES)} labels"):
        compare(Always((0.6, 0.4)), Always((0.4, 0.6)), IMAGES)


def test_a_model_is_exported_as_two_files_that_agree() -> None:
    with export.exported(export.add_softmax(untrained(), 1.5), SPEC, IMAGES) as files:
        assert sorted(files.digests) == ["model.keras", "model.onnx"]
        assert all(
            digest(files.folder / name) == expected for name, expected in files.digests.items()
        )
        assert 0 <= files.difference < TOLERANCE
    assert not files.folder.exists()


def test_both_files_give_probabilities_divided_by_the_temperature() -> None:
    model = untrained()
    expected = softmax(np.asarray(model(IMAGES)) / 1.7, axis=1)

    with export.exported(export.add_softmax(model, 1.7), SPEC, IMAGES) as files:
        for engine in (
            TensorflowEngine(files.folder / "model.keras", SPEC),
            OnnxEngine(files.folder / "model.onnx", SPEC),
        ):
            np.testing.assert_allclose(engine.predict(IMAGES), expected, atol=1e-5)


def test_a_model_whose_engines_disagree_is_not_saved(
    digits_model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "TOLERANCE", -1.0)  # no two engines agree as well as that
    before = [model.tag for model in list_models()]
    with pytest.raises(ProgramFailed, match="not saved"):
        training.train(pictures.shapes(), recipe("softmax", epochs=1), min_accuracy=0)

    assert [model.tag for model in list_models()] == before


def test_a_failure_while_saving_leaves_no_model(
    digits_model: StoredModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(training, "write_report", fail)
    before = [model.tag for model in list_models()]
    with pytest.raises(NotWritable, match="No space left"):
        training.train(pictures.shapes(), recipe("softmax", epochs=1), min_accuracy=0)

    assert [model.tag for model in list_models()] == before
