"""Find the file of a given model, and open it by its format."""

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException

from loupe.errors import InvalidModel, InvalidUsage
from loupe.models.store import MODULE
from loupe.text import one_line
from train.data.own.folders import expand_user
from train.importing.formats.given import GivenModel

CONFIG = "config.json"  # of an unzipped .keras file
SAVED_MODEL = "saved_model.pb"
HDF5 = b"\x89HDF\r\n\x1a\n"
ZIP = b"PK\x03\x04"
PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
KINDS = "a .keras, .h5 or .onnx file, or the folder of a SavedModel"


@dataclass(frozen=True)
class Source:
    """A model's file or folder, and what opens it.

    Attributes:
        path: The file or folder.
        name: For people: its name.
        open: Reads the model.
    """

    path: Path
    name: str
    open: Callable[[], GivenModel]


def find_source(text: str) -> Source:
    """Return the model that a user named: a path, or the tag of one that BentoML stored.

    Raises:
        InvalidUsage: If there is none.
        InvalidModel: If it has no format that Loupe imports.
    """
    path = expand_user(text)
    if os.path.exists(path):  # noqa: PTH110 - pathlib raises for names that are too long
        try:
            return Source(path, one_line(path.absolute().name), _opener(path))
        except OSError as error:
            raise InvalidModel(
                f"'{path}' cannot be read: {error.strerror}.", code="model_unreadable"
            ) from error
    try:
        stored = bentoml.models.get(text)
    except (BentoMLException, ValueError, OSError) as error:
        raise InvalidUsage(
            f"There is no model {text!r}. Give {KINDS}, or the tag of a model that bentoml.keras "
            "or bentoml.onnx saved.",
            code="model_file_not_found",
        ) from error
    module, folder = stored.info.module.rpartition(".")[2], Path(stored.path)
    files = {"keras": folder, "onnx": folder / "saved_model.onnx"}
    if module not in files or stored.info.module == MODULE or not files[module].exists():
        raise InvalidModel(
            f"BentoML's model {stored.tag} was saved by '{stored.info.module}'. Loupe imports "
            "those of bentoml.keras and bentoml.onnx.",
            code="unknown_model_format",
        )
    return Source(files[module], stored.tag.name, _opener(files[module]))


def _opener(path: Path) -> Callable[[], GivenModel]:
    """Return what opens a file, by its first bytes."""
    if (path / SAVED_MODEL).is_file():
        return lambda: _open_saved_model(path)
    if (path / CONFIG).is_file():
        return lambda: _open_keras(path)
    if not path.is_file():
        raise InvalidModel(f"'{path}' is no model. Give {KINDS}.", code="unknown_model_format")
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(PICKLES) or (head.startswith(ZIP) and _holds_pickle(path)):
        raise InvalidModel(
            f"'{path}' is a pickle, as PyTorch and scikit-learn write them. Opening it can run any "
            "program, so Loupe never does. Export the model to ONNX.",
            code="unsafe_model",
        )
    if head.startswith((HDF5, ZIP)):
        return lambda: _open_keras(path)
    return lambda: _open_onnx(path)


def _holds_pickle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def _open_saved_model(path: Path) -> GivenModel:
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    from train.importing.formats.saved_model import SavedModel

    return SavedModel(path)


def _open_keras(path: Path) -> GivenModel:
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    from train.importing.formats.keras_model import KerasModel

    return KerasModel(path)


def _open_onnx(path: Path) -> GivenModel:
    from train.importing.formats.onnx_files import read_onnx
    from train.importing.formats.onnx_model import OnnxModel

    return OnnxModel(read_onnx(path), path)
