"""The model card: what a stored model is, how it was made, and how good it is. The service and the worker read nothing else."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from loupe.images.spec import Look
from loupe.old_errors.core import UnknownLanguage

FILE_NAME = "card.json"


class Figures(BaseModel):
    """What was measured on the test split, which training never saw."""

    model_config = ConfigDict(frozen=True)

    test_images: int
    test_digest: str = Field(
        description="SHA-256 of the test images and labels: figures of one digest can be compared."
    )
    accuracy: float = Field(
        ge=0, le=1, description="Fraction of test images whose best class is right."
    )
    loss: float = Field(description="Mean cross-entropy, in nats.")
    train_accuracy: float = Field(
        ge=0, le=1, description="The same on the images it was trained on."
    )
    calibration_error: float = Field(
        ge=0,
        le=1,
        description="Expected calibration error: mean distance of confidence from accuracy.",
    )
    extra_images: int = 0
    extra_accuracy: float | None = Field(
        default=None, description="On the user's own pictures that were mixed into training."
    )
    engines_difference: float = Field(
        description="Largest difference between the engines' probabilities."
    )
    training_seconds: float


class ModelCard(BaseModel):
    """Everything that is known about a stored model; `card.json` beside its files."""

    model_config = ConfigDict(frozen=True)

    card_version: Literal[1] = 1
    dataset: str
    class_names: tuple[str, ...] = Field(
        min_length=2, description="In the order of the model's columns."
    )
    translations: dict[str, tuple[str, ...]] = Field(
        default={}, description="The class names in other languages, by their ISO 639-1 codes."
    )
    look: Look
    source: str = Field(default="not stated", description="Where the data comes from.")
    licence: str = Field(default="not stated", description="Of the data.")
    figures: Figures
    files: dict[str, str] = Field(description="SHA-256 of each file of the model, by name.")
    config: dict[str, JsonValue] = Field(description="The training configuration.")
    made_with: dict[str, str] = Field(description="Versions of the packages that made the model.")
    created: datetime

    @field_validator("class_names")
    @classmethod
    def _distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("class names must differ from each other")
        return names

    @model_validator(mode="after")
    def _translated_whole(self) -> "ModelCard":
        for language, names in self.translations.items():
            if len(names) != len(self.class_names):
                raise ValueError(
                    f"{len(self.class_names)} class names were expected in '{language}'"
                )
        return self

    def names(self, language: str) -> tuple[str, ...]:
        """The class names in a language: `en` for those of the data set itself.

        Raises:
            UnknownLanguage: If the card has none in it.
        """
        if language == "en":
            return self.class_names
        try:
            return self.translations[language]
        except KeyError:
            raise UnknownLanguage(language, ("en", *self.translations)) from None

    def save(self, folder: Path) -> None:
        """Write `card.json` into a folder."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ModelCard":
        """Read `card.json` from a folder; `OSError` or `ValueError` if it is not there or no card."""
        return cls.model_validate_json((folder / FILE_NAME).read_bytes())


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
