"""What a training run is told: the hyperparameters, and for every architecture those that train it well."""

import math
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, get_args

from loupe.old_errors.train import InvalidTraining

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
]
Optimizer = Literal["sgd", "adam", "amsgrad", "adamw", "adagrad", "adadelta", "rmsprop"]
Schedule = Literal["constant", "cosine", "one-cycle"]
Initializer = Literal["glorot-uniform", "glorot-normal", "he-uniform", "he-normal", "zeros"]

FULL_BATCH = 0  # a batch size that stands for the whole training split


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of one training run; they are kept in the model card.

    Attributes:
        architecture: The network.
        hidden: Units of each hidden layer; empty where the architecture has none to choose.
        optimizer: What makes the steps.
        learning_rate: Of the optimiser, at its highest.
        schedule: How the learning rate goes: it stays, falls to zero along a cosine, or rises first and falls then.
        weight_decay: Share of each kernel that a step takes away, times the learning rate; biases and normalisations keep theirs.
        batch_size: Images per step; `FULL_BATCH` for all of them in one.
        epochs: Times every training image is seen, at most.
        patience: Epochs without a better validation accuracy after which training stops; 0 for never.
        validation_fraction: Share, 0..1, of the training split held back to choose the best epoch by and to calibrate with.
        initializer: How kernels begin.
        bias: What biases begin with.
        augmentation: Whether images are changed a little in every epoch.
        erasing: Share, 0..1, of the images of which a part is hidden behind noise, where there is augmentation: those who learn for long
            would else know their images by heart.
        mixup: Where there is augmentation, how evenly each image is mixed with another, as are their labels: the parameter of a beta
            distribution; 0 for not at all. It keeps those who learn for long from believing every label.
        shifted_views: Whether the trained model answers with the mean over the image as it is, a pixel higher and a pixel lower.
        bfloat16: Whether convolutions are trained in bfloat16 on processors that have AMX units for it, which makes large ones twice as
            fast; other processors, and every answer of the trained model, stay with float32.
        class_weights: Whether an image counts the more the fewer its class has.
        seed: Makes weights, order, augmentation and dropout the same again on the same machine.
    """

    architecture: Architecture = "cnn"
    hidden: tuple[int, ...] = ()
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    weight_decay: float = 0.0
    batch_size: int = 128
    epochs: int = 10
    patience: int = 0
    validation_fraction: float = 1 / 12
    initializer: Initializer = "glorot-uniform"
    bias: float = 0.0
    augmentation: bool = False
    erasing: float = 0.0
    mixup: float = 0.0
    shifted_views: bool = False
    bfloat16: bool = False
    class_weights: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for option, expected, good in (
            ("epochs", "at least 1", self.epochs >= 1),
            ("batch size", "at least 1 image, or 'full'", self.batch_size >= 0),
            ("learning rate", "a number above 0", 0 < self.learning_rate < float("inf")),
            ("weight decay", "a number of 0 or more", 0 <= self.weight_decay < float("inf")),
            ("patience", "0 epochs or more", self.patience >= 0),
            (
                "validation fraction",
                "a share of 0 or more, below 1",
                0 <= self.validation_fraction < 1,
            ),
            ("erasing", "a share of 0 to 1", 0 <= self.erasing <= 1),
            ("mixup", "a number of 0 or more", 0 <= self.mixup < float("inf")),
            ("hidden", "units of at least 1", all(units >= 1 for units in self.hidden)),
        ):
            if not good:
                raise InvalidTraining(
                    option, expected, str(getattr(self, option.replace(" ", "_")))
                )


# How each architecture is trained where nothing else is said.
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
    "cnn": TrainConfig(
        "cnn",
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="one-cycle",
        weight_decay=0.05,
        batch_size=64,
        epochs=21,
        initializer="he-normal",
        augmentation=True,
    ),
    "resnet": TrainConfig(
        "resnet",
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="one-cycle",
        weight_decay=0.05,
        batch_size=64,
        epochs=50,
        validation_fraction=1 / 24,
        initializer="he-normal",
        augmentation=True,
        erasing=0.5,
        mixup=0.2,
        shifted_views=True,
        bfloat16=True,
    ),
}


FEWEST_STEPS = 600  # the recipes are for tens of thousands of images; of fewer, more epochs are needed to learn anything


def recipe(
    architecture: str = "cnn", images: int | None = None, /, **changes: object
) -> TrainConfig:
    """The recipe of an architecture, with changes.

    Args:
        architecture: One of `RECIPES`.
        images: How many there are to train on; a few thousand get more epochs than the recipe has.
        changes: Fields of `TrainConfig`; those that are `None` are left as the recipe has them.

    Raises:
        InvalidTraining: If a name is unknown, or a value impossible.
    """
    known = RECIPES[_one_of("architecture", architecture, Architecture)]
    given = {name: value for name, value in changes.items() if value is not None}
    for option, names in (
        ("optimizer", Optimizer),
        ("schedule", Schedule),
        ("initializer", Initializer),
    ):
        if option in given:
            _one_of(option, str(given[option]), names)
    if given.get("hidden") and not known.hidden:
        takers = ", ".join(name for name, config in RECIPES.items() if config.hidden)
        raise InvalidTraining(
            "hidden", f"an architecture with hidden sizes to choose ({takers})", architecture
        )
    config = replace(known, **given)  # type: ignore[arg-type]
    if images and "epochs" not in given and config.batch_size != FULL_BATCH:
        steps = math.ceil(images / config.batch_size)
        config = replace(config, epochs=max(config.epochs, math.ceil(FEWEST_STEPS / steps)))
    return config


def _one_of(option: str, name: str, literal: Any) -> Any:
    names = get_args(literal)
    if name not in names:
        nearest = get_close_matches(name, names, 1)
        raise InvalidTraining(
            option,
            f"one of {', '.join(names)}" + (f"; nearest: {nearest[0]}" if nearest else ""),
            name,
        )
    return name
