"""Model stores with copies of real models, or with files that only look like models."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import yaml

from loupe.files import lock
from loupe.images.spec import ImageSpec
from loupe.models.card import Figures, ModelCard, digest
from loupe.models.saving import new_model
from loupe.models.store import StoredModel, find_model


def copied(model: StoredModel, home: Path, tag: str | None = None) -> StoredModel:
    """Copy a model into the store of `BENTOML_HOME=home`, or under another tag, as the newest one.

    Watchers of the store see the whole model in one step.
    """
    tag = tag or model.tag
    name, _, version = tag.partition(":")
    folder = home / "models" / name / version
    aside = Path(shutil.copytree(model.folder, home / f"copy-{version}"))
    about = yaml.safe_load((aside / "model.yaml").read_text())
    now = datetime.now(UTC)
    about["creation_time"] = now.isoformat()
    (aside / "model.yaml").write_text(yaml.safe_dump(about))
    card = model.card.model_copy(update={"created": now})
    card.save(aside)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(folder)
    (folder.parent / "latest").write_text(version)
    return replace(model, tag=tag, folder=folder, card=card)


def made_once(shared: Path, make: Callable[[], StoredModel]) -> StoredModel:
    """Return a model that the first of the test processes makes, and the others copy.

    Args:
        shared: The model's folder, the same for all test processes.
        make: Trains or stores it.
    """
    shared.mkdir(exist_ok=True)
    with lock(shared / "lock"):
        for folder in shared.glob("models/*/*/"):
            tag = f"{folder.parent.name}:{folder.name}"
            kept = StoredModel(tag, folder, ModelCard.load(folder))
            return copied(kept, Path(os.environ["BENTOML_HOME"]))
        made = make()
        copied(made, shared)
        return made


def card(accuracy: float = 0.9, *, test_digest: str = "same", **fields: object) -> ModelCard:
    """Return the card of a model without files, with an accuracy on a test set."""
    return ModelCard.model_validate(
        {
            "dataset": "letters",
            "class_names": ("a", "b"),
            "input": ImageSpec("ink"),
            "figures": Figures(
                test_images=100_000,
                test_digest=test_digest,
                accuracy=accuracy,
                loss=0.5,
                train_accuracy=0.95,
                calibration_error=0.02,
                engines_difference=1e-7,
                training_seconds=3.0,
            ),
            "files": {},
            "config": {"architecture": "cnn"},
            "made_with": {"keras": "3"},
            "created": datetime.now(UTC),
            **fields,
        }
    )


def stored(
    accuracy: float = 0.9, *, name: str = "letters", test_digest: str = "same", **fields: object
) -> StoredModel:
    """Store a model whose only file is not a real model."""
    with new_model(name, card(accuracy, test_digest=test_digest, **fields)) as model:
        file = Path(model.path_of("model.onnx"))
        file.write_bytes(b"no model at all, but of some length")
        files = {file.name: digest(file)}
        card(accuracy, test_digest=test_digest, **{**fields, "files": files}).save(Path(model.path))
    return find_model(str(model.tag))


def damage(path: Path) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
