"""The model card: what a stored model is, how it was made, and how good it is.

The service and the worker read nothing else about a model.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from loupe.errors import InvalidRequest
from loupe.images.spec import ImageSpec
from loupe.models.certainty import Conformal, Familiarity

FILE_NAME = "card.json"
MAX_CLASS_NAME_LENGTH = 255  # characters; names of folders are not longer
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # Unicode's control characters, line breaks …
JOINERS = "\u200c\u200d"  # invisible, but words of some languages and emoji need them


def check_class_names(names: Sequence[str], *, distinct: bool = True) -> None:
    """Raise `ValueError` if classes cannot have these names.

    A name is 1 to 255 characters of visible text on one line, because tables, logs and reports show
    names as they are. Signs such as `=` or `<` are allowed: classes can be signs.
    """
    for number, name in enumerate(names, start=1):
        if not name.strip():
            raise ValueError(f"class {number} has no name")
        if len(name) > MAX_CLASS_NAME_LENGTH:
            raise ValueError(
                f"the name of class {number} has {len(name)} characters; "
                f"at most {MAX_CLASS_NAME_LENGTH} are possible"
            )
        for letter in name:
            if unicodedata.category(letter) in INVISIBLE and letter not in JOINERS:
                raise ValueError(
                    f"the name of class {number}, {name!r}, has the control character "
                    f"U+{ord(letter):04X}; use one line of visible text"
                )
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if distinct and repeated:
        raise ValueError(f"several classes have the name {repeated[0]!r}")


class Figures(BaseModel):
    """Measurements on the test split, which training never saw."""

    model_config = ConfigDict(frozen=True)

    test_images: int
    test_digest: str = Field(
        description="SHA-256 of the test images and labels. "
        "Figures with the same digest can be compared."
    )
    accuracy: float = Field(
        ge=0, le=1, description="Fraction of test images whose best class is correct."
    )
    loss: float = Field(description="Mean cross-entropy, in nats.")
    train_accuracy: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Accuracy on the training images; `None` if they are not known.",
    )
    calibration_error: float = Field(
        ge=0,
        le=1,
        description="Expected calibration error: mean distance of confidence from accuracy.",
    )
    extra_images: int = 0
    extra_accuracy: float | None = Field(
        default=None,
        description="Accuracy on the user's own pictures that were mixed into training.",
    )
    engines_difference: float = Field(
        description="Largest difference between the engines' probabilities."
    )
    training_seconds: float | None = Field(
        default=None, description="Duration of the training; `None` if it was not Loupe's."
    )


class ModelCard(BaseModel):
    """The description of a stored model, kept as `card.json` among its files."""

    model_config = ConfigDict(frozen=True)

    card_version: Literal[2] = 2
    dataset: str
    class_names: tuple[str, ...] = Field(
        min_length=2, description="In the order of the model's columns."
    )
    translations: dict[str, tuple[str, ...]] = Field(
        default={}, description="The class names in other languages, by ISO 639-1 code."
    )
    input: ImageSpec = Field(description="The images that the model takes.")
    source: str = Field(default="not stated", description="Where the data comes from.")
    licence: str = Field(default="not stated", description="Licence of the data.")
    figures: Figures | None = Field(description="`None` if the model was not measured.")
    familiarity: Familiarity | None = Field(
        default=None, description="`None` if the model does not know how familiar an image is."
    )
    conformal: Conformal | None = Field(
        default=None, description="`None` if the model cannot give prediction sets."
    )
    files: dict[str, str] = Field(description="SHA-256 of each file of the model, by name.")
    config: dict[str, JsonValue] = Field(description="The training configuration.")
    made_with: dict[str, str] = Field(description="Versions of the packages that made the model.")
    created: datetime

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, values: object) -> object:
        """Read cards of version 1, whose models take 28 × 28 grey pixels."""
        if not isinstance(values, dict) or values.get("card_version") != 1:
            return values
        rest = {name: value for name, value in values.items() if name != "look"}
        return {**rest, "card_version": 2, "input": {"look": values.get("look")}}

    @field_validator("class_names")
    @classmethod
    def _check_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        check_class_names(names)
        return names

    @model_validator(mode="after")
    def _translated_whole(self) -> "ModelCard":
        for language, names in self.translations.items():
            if len(names) != len(self.class_names):
                raise ValueError(
                    f"'{language}' has {len(names)} class names instead of {len(self.class_names)}"
                )
            check_class_names(names, distinct=False)
        return self

    @property
    def measured(self) -> Figures:
        """The figures; `ValueError` if the model was not measured."""
        if self.figures is None:
            raise ValueError("The model was not measured.")
        return self.figures

    def names(self, language: str) -> tuple[str, ...]:
        """Return the class names in a language; `en` means those of the data set itself.

        Raises:
            InvalidRequest: If the card has none in that language.
        """
        if language == "en":
            return self.class_names
        try:
            return self.translations[language]
        except KeyError:
            known = ", ".join(("en", *self.translations))
            raise InvalidRequest(
                f"The model has no class names in '{language}'. Languages: {known}.",
                code="unknown_language",
            ) from None

    def save(self, folder: Path) -> None:
        """Write `card.json` into a folder."""
        (folder / FILE_NAME).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "ModelCard":
        """Read `card.json` from a folder.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is not a valid card.
        """
        return cls.model_validate_json((folder / FILE_NAME).read_bytes())


def digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
