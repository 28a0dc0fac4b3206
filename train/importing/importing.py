"""Import a model: find out how it works, measure it, and save it to the store."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from shutil import copy2

import numpy as np
from pydantic import JsonValue
from scipy.special import softmax

from loupe.errors import InvalidUsage
from loupe.images.spec import Fit, Float32Array, ImageSpec, Look, UInt8Array
from loupe.models.card import Figures, ModelCard, digest
from loupe.models.certainty import Familiarity
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.engines.tensorflow import TensorflowEngine
from loupe.models.promotion import promote_first
from loupe.models.saving import check_classes, new_model
from loupe.models.store import KERAS_FILE, ONNX_FILE, StoredModel, find_model
from train.data.datasets import Dataset, Split
from train.evaluate.calibration import fit_temperature
from train.evaluate.evaluation import Evaluation, Predictions, evaluate
from train.evaluate.gate import check_accuracy, compare, conformal_of, default_min_accuracy
from train.evaluate.report import write_report
from train.evaluate.robustness.measuring import measure
from train.familiarity.fitting import add_familiarity
from train.importing.classes import load_test, set_aside
from train.importing.formats.given import GivenModel
from train.importing.reading import StatedInput, probes, read_output, read_wiring
from train.importing.wiring import Output, Wiring

NOT_STATED = "not stated"
BATCH = 512  # images


@dataclass(frozen=True)
class ImportOptions:
    """A user's statements about a model.

    Attributes:
        name: Name in the store.
        classes: In the order of the model's outputs.
        look: How its images look; needed for grey ones.
        fit: How photos get their size.
        input: How it takes images, where its file does not say.
        output: What its outputs are, where probes do not tell.
        test: A data set that measures the model.
        calibrate: Fit a temperature.
        min_accuracy: Minimum test accuracy; depends on the data set by default.
        replace_classes: Allow other classes than earlier models of the name have.
    """

    name: str
    classes: tuple[str, ...]
    look: Look | None = None
    fit: Fit | None = None
    input: StatedInput = field(default_factory=StatedInput)
    output: Output | None = None
    test: str | None = None
    calibrate: bool = False
    min_accuracy: float | None = None
    replace_classes: bool = False


@dataclass(frozen=True)
class Reference:
    """The given model in its own framework, with the calibration that the stored one gets."""

    model: GivenModel
    wiring: Wiring
    temperature: float = 1.0

    def logits(self, images: UInt8Array) -> Float32Array:
        """Return logits, float32 `(n, classes)`."""
        starts = range(0, len(images), BATCH)
        return np.concatenate(
            [
                self.wiring.to_logits(self.model.run(self.wiring.prepare(images[at : at + BATCH])))
                for at in starts
            ]
        )

    def predict(self, images: UInt8Array) -> Float32Array:
        """Return probabilities, as `Engine.predict`."""
        return np.asarray(softmax(self.logits(images) / self.temperature, axis=1), np.float32)


def import_model(
    model: GivenModel,
    file: str,
    options: ImportOptions,
    announce: Callable[[Dataset], None] = lambda dataset: None,
) -> StoredModel:
    """Save a given model, wrapped so that it takes Loupe's images, to the store.

    With test images, it is measured, and goes into production if it is the first of its name.

    Args:
        model: The model.
        file: Its name, for the card.
        options: What the user says about it.
        announce: Called with the test images as soon as they are read.

    Raises:
        InvalidModel: If it is not a classifier of images.
        InvalidUsage: If the user has to say more.
        InvalidDataset: If the test images do not fit.
        ProgramFailed: If it is not accurate enough, or its stored form answers differently.
    """
    if options.calibrate and options.test is None:
        raise InvalidUsage(
            "--calibrate needs images with labels: --test.", code="calibration_needs_test"
        )
    if not options.replace_classes:
        check_classes(options.name, options.classes)
    wiring, units = _connect(model, options)
    dataset = _images(wiring.spec, options, announce)
    reference = Reference(model, wiring)
    evaluation = None
    if dataset:
        evaluation = _evaluate(reference, dataset, options)
        reference = Reference(model, wiring, evaluation.calibration.temperature)
        evaluation = evaluation.with_robustness(
            measure(dataset.test, wiring.spec, reference.predict)
        )
    saved = _save(reference, units, file, options, dataset, evaluation)
    if dataset:
        promote_first(saved)
    return saved


def _save(
    reference: Reference,
    units: int,
    file: str,
    options: ImportOptions,
    dataset: Dataset | None,
    evaluation: Evaluation | None,
) -> StoredModel:
    """Write the model's files, compare them with the given model, and store them."""
    model, spec = reference.model, reference.wiring.spec
    with tempfile.TemporaryDirectory(prefix="loupe-import-") as temporary:
        folder = Path(temporary)
        files = model.save(folder, reference.wiring, units, reference.temperature)
        familiarity = _familiarity(folder / ONNX_FILE, dataset) if dataset else None
        conformal = None
        if dataset and dataset.validation and options.calibrate:
            conformal = conformal_of(OnnxEngine(folder / ONNX_FILE, spec), dataset.validation)
        images = dataset.test.images if dataset else probes(spec)
        difference = compare(reference, OnnxEngine(folder / ONNX_FILE, spec), images)
        if KERAS_FILE in files:
            compare(reference, TensorflowEngine(folder / KERAS_FILE, spec), images)
        card = ModelCard(
            dataset=NOT_STATED,
            class_names=options.classes,
            input=spec,
            source=f"imported from {file}",
            figures=_figures(dataset, evaluation, difference) if dataset and evaluation else None,
            files={name: digest(folder / name) for name in files},
            familiarity=familiarity,
            conformal=conformal,
            config=_config(reference, evaluation, difference),
            made_with=model.made_with,
            created=datetime.now(UTC),
        )
        with new_model(options.name, card, replace_classes=options.replace_classes) as stored:
            for name in files:
                copy2(folder / name, stored.path_of(name))
            if dataset and evaluation:
                write_report(Path(stored.path), evaluation, card, dataset, tag=str(stored.tag))
    return find_model(str(stored.tag))


def _connect(model: GivenModel, options: ImportOptions) -> tuple[Wiring, int]:
    """Return how the model works and how many outputs it has, and check the classes."""
    wiring = read_wiring(model, options.input, options.look, options.fit)
    inputs = wiring.prepare(probes(wiring.spec))
    model.settle(inputs)
    output, units = read_output(model, inputs, options.output)
    if len(options.classes) != max(units, 2):
        raise InvalidUsage(
            f"The model has {max(units, 2)} classes, but --classes names {len(options.classes)}.",
            code="classes_differ",
        )
    return replace(wiring, output=output), units


def _images(
    spec: ImageSpec, options: ImportOptions, announce: Callable[[Dataset], None]
) -> Dataset | None:
    if options.test is None:
        return None
    dataset = load_test(options.test, spec, options.classes)
    announce(dataset)
    return set_aside(dataset) if options.calibrate else dataset


def _evaluate(reference: Reference, dataset: Dataset, options: ImportOptions) -> Evaluation:
    """Measure the model and check its accuracy."""

    def predict(split: Split) -> Predictions:
        return Predictions(reference.logits(split.images), split.labels)

    validation = predict(dataset.validation) if options.calibrate and dataset.validation else None
    evaluation = evaluate(
        dataset=dataset.name,
        architecture=f"imported {reference.model.format}",
        class_names=options.classes,
        train=None,
        test=predict(dataset.test),
        validation=validation,
        temperature=fit_temperature(validation.logits, validation.labels) if validation else 1.0,
    )
    minimum = options.min_accuracy
    check_accuracy(
        evaluation.test.accuracy, default_min_accuracy(dataset) if minimum is None else minimum
    )
    return evaluation


def _familiarity(path: Path, dataset: Dataset) -> Familiarity | None:
    """Let a model know how familiar an image is, by images that do not measure its accuracy.

    Without a training split, half of the images tell what is familiar, the others how much.
    """
    held = (dataset.validation or dataset.test).images
    if dataset.test_from_train:
        return add_familiarity(path, held[::2], held[1::2])
    return add_familiarity(path, dataset.train.images, held)


def _config(
    reference: Reference, evaluation: Evaluation | None, difference: float
) -> dict[str, JsonValue]:
    """Return what the card says about the import; its test set by name, not by path."""
    model, wiring = reference.model, reference.wiring
    return {
        "architecture": f"imported {model.format}",
        "parameters": model.parameters,
        "input": str(wiring),
        "output": wiring.output,
        "temperature": reference.temperature,
        "tested_on": evaluation.dataset if evaluation else None,
        "difference": difference,
    }


def _figures(dataset: Dataset, evaluation: Evaluation, difference: float) -> Figures:
    return Figures(
        test_images=evaluation.test.images,
        test_digest=dataset.test.digest(),
        accuracy=evaluation.test.accuracy,
        loss=evaluation.test.loss,
        calibration_error=evaluation.calibration.error_after,
        engines_difference=difference,
    )
