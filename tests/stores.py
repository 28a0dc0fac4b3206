"""Model stores made of models that exist already."""

import shutil
from dataclasses import replace
from pathlib import Path

from loupe.store import StoredModel


def copied(model: StoredModel, home: Path) -> StoredModel:
    """The same model in another store, for `BENTOML_HOME=home`."""
    name, _, version = model.tag.partition(":")
    folder = home / "models" / name / version
    shutil.copytree(model.folder, folder)
    (folder.parent / "latest").write_text(version)
    return replace(model, folder=folder)


def damage(path: Path) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
