"""Hyperparameters: names, bounds and help, and a recipe for each architecture."""

import math
from dataclasses import asdict, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from loupe.errors import InvalidUsage
from loupe.images.spec import Look

Architecture = Literal[
    "softmax",
    "mlp-sigmoid",
    "mlp",
    "mlp-512",
    "mlp-small",
    "cnn-small",
    "cnn-classic",
    "cnn",
    "resnet",
    "mobilenet-v3-small",
    "mobilenet-v3-large",
    "efficientnet-b0",
]
Optimizer = Literal["sgd", "adam", "amsgrad", "adamw", "adagrad", "adadelta", "rmsprop"]
Schedule = Literal["constant", "cosine", "one-cycle"]
Initializer = Literal["glorot-uniform", "glorot-normal", "he-uniform", "he-normal", "zeros"]

MAX_INT = 2**31 - 1  # TensorFlow counts steps and images in 32 bits
MAX_FLOAT = 3e38  # weights are float32
MAX_UNITS = 2**20  # of a layer; more take gigabytes

Config = TypeVar("Config", bound="TrainConfig")

FULL_BATCH = 0  # the batch size of the whole training split
# Recipes are for tens of thousands of images; fewer images need more epochs.
MIN_STEPS = 600
MIN_PHOTO_STEPS = 2_880  # photos differ more; these steps take minutes on two cores


def _read_units(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


def _read_batch_size(value: object) -> object:
    if value == "0":
        raise PydanticCustomError("batch_size", "Input should be at least 1, or 'full'")
    return FULL_BATCH if value == "full" else value


def _absolute(path: str) -> str:
    """Return a path that means the same in every working directory."""
    return str(Path(path).absolute()) if path else ""


Units = Annotated[int, Field(ge=1, le=MAX_UNITS)]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
CONFIG = ConfigDict(allow_inf_nan=False, use_attribute_docstrings=True)  # as descriptions


@dataclass(frozen=True, config=CONFIG)
class TrainConfig:
    """The hyperparameters of one training run, which the model card stores.

    Each description is also the help text of the command-line option.
    """

    architecture: Architecture = "cnn"
    """Network architecture."""
    hidden: Annotated[tuple[Units, ...], BeforeValidator(_read_units)] = ()
    """Units of each hidden layer of an mlp, as 128,64; filters of each stage of a resnet."""
    optimizer: Optimizer = "adam"
    """Optimizer."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate."""
    schedule: Schedule = "constant"
    """Learning-rate schedule."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of kernels, times the learning rate."""
    batch_size: Annotated[Count, BeforeValidator(_read_batch_size)] = 128
    """Images per step, or full."""
    epochs: int = Field(default=10, ge=1, le=MAX_INT)
    """Maximum number of passes over the training images."""
    patience: Count = 0
    """Stop after this many epochs without improvement; 0 = off."""
    validation_fraction: float = Field(default=1 / 12, ge=0, lt=1)
    """Fraction of the training split used for validation."""
    initializer: Initializer = "glorot-uniform"
    """Kernel initializer."""
    bias: float = Field(default=0.0, ge=-MAX_FLOAT, le=MAX_FLOAT)
    """Initial value of biases."""
    augmentation: bool = False
    """Augment the training images in every epoch."""
    # Random erasing keeps long trainings from memorising the images.
    erasing: float = Field(default=0.0, ge=0, le=1)
    """Fraction of augmented images with a part erased."""
    # Mixup keeps long trainings from becoming over-confident.
    mixup: float = Field(default=0.0, ge=0)
    """Beta-distribution parameter of mixup; 0 = off."""
    # Smoothed targets do the same, and keep a wrong label from counting much.
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of each target that is spread over all classes."""
    shifted_views: bool = False
    """Average predictions over copies shifted up and down."""
    bfloat16: bool = False
    """Use bfloat16 convolutions on processors that have them; up to twice as fast."""
    # A model without an opinion on them is less sure of what it does not know.
    outliers: float = Field(default=0.0, ge=0, le=1)
    """Pictures of no class, such as letters and noise, per training image."""
    class_weights: bool = False
    """Weight images by the inverse frequency of their class."""
    pretrained: Annotated[str, AfterValidator(_absolute)] = ""
    """Weights file of a mobilenet-v3 or efficientnet, which these need."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Random seed; runs with the same seed give the same model."""


@dataclass(frozen=True, config=CONFIG)
class Setting(TrainConfig):
    """The hyperparameters of a training, and the split of images that have no test split."""

    test_fraction: float | None = Field(default=None, gt=0, lt=1)
    """Fraction of the images to test with, for data sets without a test split."""


FIELDS: dict[str, FieldInfo] = {
    **Setting.__pydantic_fields__,  # type: ignore[attr-defined]
    **TrainConfig.__pydantic_fields__,  # type: ignore[attr-defined]  # with their descriptions
}

ONE_CYCLE = TrainConfig(  # the common part of the recipes of residual networks
    optimizer="adamw",
    learning_rate=3e-3,
    schedule="one-cycle",
    weight_decay=0.05,
    batch_size=64,
    initializer="he-normal",
    augmentation=True,
)

RECIPES: dict[Architecture, TrainConfig] = {
    "softmax": TrainConfig("softmax", epochs=20, patience=5, initializer="zeros"),
    "mlp-sigmoid": TrainConfig("mlp-sigmoid", hidden=(50, 100), epochs=40, patience=8),
    "mlp": TrainConfig(
        "mlp",
        hidden=(128,),
        optimizer="adamw",
        learning_rate=4e-3,
        schedule="one-cycle",
        weight_decay=0.05,
        epochs=30,
        patience=12,
    ),
    "mlp-512": TrainConfig("mlp-512", hidden=(512, 512), schedule="cosine", epochs=20),
    "mlp-small": TrainConfig(
        "mlp-small",
        hidden=(32, 16),
        learning_rate=3e-3,
        schedule="cosine",
        batch_size=FULL_BATCH,
        epochs=1000,
        bias=0.01,
    ),
    "cnn-small": TrainConfig("cnn-small", learning_rate=3e-3, schedule="cosine", epochs=6),
    "cnn-classic": TrainConfig("cnn-classic", optimizer="adadelta", learning_rate=1.0, epochs=12),
    "cnn": replace(ONE_CYCLE, architecture="cnn", epochs=21),
    "resnet": replace(
        ONE_CYCLE,
        architecture="resnet",
        epochs=50,
        validation_fraction=1 / 24,
        erasing=0.5,
        mixup=0.2,
        shifted_views=True,
        bfloat16=True,
    ),
}


FINE_TUNING = replace(
    ONE_CYCLE, learning_rate=5e-4, epochs=10, erasing=0.3, label_smoothing=0.1, bfloat16=True
)
PRETRAINED: tuple[Architecture, ...] = (
    "mobilenet-v3-small",
    "mobilenet-v3-large",
    "efficientnet-b0",
)
RECIPES |= {name: replace(FINE_TUNING, architecture=name) for name in PRETRAINED}

PHOTO_RECIPES: dict[Architecture, TrainConfig] = RECIPES | {
    "cnn": replace(RECIPES["cnn"], epochs=30, erasing=0.3, label_smoothing=0.1),
    "resnet": replace(
        RECIPES["resnet"], epochs=30, erasing=0.3, label_smoothing=0.1, shifted_views=False
    ),
}
# A digit is centred, so shifted copies of it tell nothing new; and less of one can be hidden.
INK_RECIPES: dict[Architecture, TrainConfig] = RECIPES | {
    "resnet": replace(RECIPES["resnet"], erasing=0.2, shifted_views=False),
}
BY_LOOK: dict[Look, dict[Architecture, TrainConfig]] = {
    "ink": INK_RECIPES,
    "object": RECIPES,
    "photo": PHOTO_RECIPES,
}
HIDDEN = ("mlp-sigmoid", "mlp", "mlp-512", "mlp-small", "resnet")  # that take `hidden`


def recipe(
    architecture: str = "cnn",
    images: int | None = None,
    look: Look = "object",
    /,
    **changes: object,
) -> TrainConfig:
    """Return the recipe of an architecture, with changes.

    Args:
        architecture: A key of `RECIPES`.
        images: Size of the training split; a few thousand images get more epochs.
        look: Look of the images; residual networks learn each look in their own way.
        changes: Fields of `TrainConfig`; those that are `None` keep the recipe's value.

    Raises:
        InvalidUsage: If a name is unknown or a value is out of range.
    """
    changes = {name: value for name, value in changes.items() if value is not None}
    known = next((config for name, config in BY_LOOK[look].items() if name == architecture), None)
    if known is None:
        return changed(TrainConfig(), architecture=architecture)  # raises
    config = changed(known, **changes)
    if changes.get("hidden") and architecture not in HIDDEN:
        raise InvalidUsage(
            f"hidden: {architecture} has no layers to choose. Those that have: "
            f"{', '.join(HIDDEN)}.",
            code="invalid_training",
        )
    _check_pretrained(config)
    if images and "epochs" not in changes and config.batch_size != FULL_BATCH:
        steps = math.ceil(images / config.batch_size)
        photos = look == "photo" and known not in RECIPES.values()
        least = MIN_PHOTO_STEPS if photos else MIN_STEPS
        config = replace(config, epochs=max(config.epochs, math.ceil(least / steps)))
    return config


def _check_pretrained(config: TrainConfig) -> None:
    """Raise `InvalidUsage` unless exactly the pretrained architectures have a weights file."""
    problem, name = None, config.architecture
    if name not in PRETRAINED and config.pretrained:
        problem = f"{name} has no pretrained weights; {', '.join(PRETRAINED)} have."
    elif name in PRETRAINED and not config.pretrained:
        problem = f"{name} starts from weights that you have: add --pretrained FILE.h5."
    elif config.pretrained and not Path(config.pretrained).is_file():
        problem = f"There is no weights file '{config.pretrained}'."
    if problem:
        raise InvalidUsage(problem, code="invalid_training")


def changed(config: Config, **changes: object) -> Config:
    """Return a copy with other values; text is parsed as on the command line.

    Raises:
        InvalidUsage: If a value is out of range.
    """
    try:
        return replace(config, **changes)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors()[0]
    name, received = str(problem["loc"][0]), problem["input"]
    expected = problem["msg"][0].lower() + problem["msg"][1:]
    message = f"{name.replace('_', ' ')}: {expected}, got {received!r}."
    nearest = get_close_matches(str(received), choices(name), 1)
    if nearest:
        message += f" Did you mean {nearest[0]}?"
    raise InvalidUsage(message, code="invalid_training")


def choices(name: str) -> tuple[str, ...]:
    """Return the names that a field accepts; empty for numbers."""
    return tuple(value for value in get_args(FIELDS[name].annotation) if isinstance(value, str))


def as_json(config: TrainConfig) -> dict[str, JsonValue]:
    """Return a configuration as a model card keeps it."""
    pretrained = Path(config.pretrained).name  # not where it was
    return {**asdict(config), "hidden": list(config.hidden), "pretrained": pretrained}


def help_text(name: str) -> str:
    """Return the description of a field and the names that it accepts."""
    names = ", ".join(choices(name))
    return f"{FIELDS[name].description}" + (f" One of: {names}." if names else "")
