"""The BentoML model store: save, find, list, label, verify and remove models. No other module knows the store's folders."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bentoml
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml.exceptions import BentoMLException

from loupe.models import promotion_log as promotions
from loupe.models.card import ModelCard, digest
from loupe.old_errors.core import LabelNotFound, ModelCorrupted, ModelNotFound, StoreUnwritable

logger = logging.getLogger(__name__)

KERAS_FILE = "model.keras"
ONNX_FILE = "model.onnx"
REPORT_FILE = "report.html"
MODULE = "loupe.store"  # how BentoML names the code that understands a stored model
PRODUCTION = "production"  # the label of the version that `name` alone stands for
LATEST = "latest"  # BentoML's word for the newest version, and the name of its file that says which that is


@dataclass(frozen=True)
class StoredModel:
    """A model in the store: its full tag `name:version`, its folder and its card."""

    tag: str
    folder: Path
    card: ModelCard

    @property
    def name(self) -> str:
        """The tag without its version."""
        return self.tag.partition(":")[0]

    @property
    def version(self) -> str:
        """The tag without its name."""
        return self.tag.partition(":")[2]

    @property
    def size_bytes(self) -> int:
        """Of all its files together."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@contextmanager
def new_model(name: str, card: ModelCard) -> Iterator[bentoml.Model]:
    """A model being saved: write its files into `model.path`; it enters the store, whole, when the block ends without an error.

    Raises:
        StoreUnwritable: If a file cannot be written, inside the block or after it; nothing enters the store.
    """
    labels = {"dataset": card.dataset, "framework": "keras", "look": card.look}
    metadata = {
        "accuracy": card.figures.accuracy,
        "classes": len(card.class_names),
        "digests": dict(card.files),
    }
    try:
        # BentoML copies file by file, and whoever is killed meanwhile leaves half a model. It may do so beside the store.
        with tempfile.TemporaryDirectory(dir=_own_folder(), prefix="saving-") as place:
            aside = ModelStore(place)
            with bentoml.models.create(
                name, module=MODULE, labels=labels, metadata=metadata, _model_store=aside
            ) as model:
                card.save(Path(model.path))
                yield model
            _enter(Path(place), model.tag)
    except FileNotFoundError:
        raise  # what the block wanted to read is no matter of the store
    except OSError as error:
        raise StoreUnwritable.of(error, _models_folder()) from error


def check_writable() -> None:
    """Find out before a training whether a model can be saved after it.

    Raises:
        StoreUnwritable: If not.
    """
    try:
        for folder in (_models_folder(), _own_folder()):
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\n")
    except OSError as error:
        raise StoreUnwritable.of(error, _models_folder()) from error


def find_model(tag: str | None = None) -> StoredModel:
    """The model of a tag.

    Args:
        tag: `name:version`, `name:label`, `name:latest` for its newest version, `name` for the version in production or else
            the newest, or nothing for the name that has the newest model of all.

    Raises:
        ModelNotFound: If there is none.
        ModelCorrupted: If its card cannot be read.
    """
    if tag is None:
        newest = list_models()
        if not newest:
            raise ModelNotFound(None, [])
        tag = newest[0].name
    model = _open(full_tag(tag))
    if model.info.module != MODULE:
        raise ModelNotFound(tag, _tags())
    return _read(model)


def full_tag(tag: str) -> str:
    """The `name:version` that a tag stands for now; whether its files can be read does not matter.

    Raises:
        ModelNotFound: If it stands for none.
    """
    try:
        wanted = bentoml.Tag.from_taglike(tag)
    except (BentoMLException, ValueError) as error:
        raise ModelNotFound(tag, _tags()) from error
    if wanted.version == PRODUCTION:
        version = _labelled(wanted.name, PRODUCTION)
    elif wanted.version in (None, LATEST):
        version = _default(wanted.name) if wanted.version is None else _newest(wanted.name)
    else:
        begun = [version for version in versions(wanted.name) if version.startswith(wanted.version)]
        version = (
            wanted.version if wanted.version in begun else begun[0] if len(begun) == 1 else None
        )
    if version is None:
        raise ModelNotFound(tag, _tags())
    return f"{wanted.name}:{version}"


def list_models(name: str | None = None) -> list[StoredModel]:
    """All readable models that Loupe saved, newest first. Models of other programs in the same store are passed over.

    Args:
        name: Versions of this name only.
    """
    readable = []
    for model in _saved(name):
        try:
            readable.append(_read(model))
        except ModelCorrupted as error:
            logger.warning("%s", error)
    return readable


def names() -> list[str]:
    """The names that have a readable model, that of the newest first."""
    return list(dict.fromkeys(model.name for model in list_models()))


def revision() -> frozenset[tuple[str, int]]:
    """What changes with the store: paths of labels, models and their files, with the nanoseconds of their last change.

    Raises:
        StoreUnwritable: If the store cannot be read.
    """
    folder = _models_folder()
    seen = {}
    for path in (
        promotions_path(),
        folder,
        *folder.glob("*"),
        *folder.glob("*/*"),
        *folder.glob("*/*/*"),
    ):
        with suppress(FileNotFoundError):  # it was removed meanwhile, or was never there
            seen[str(path)] = path.stat().st_mtime_ns
    return frozenset(seen.items())


def versions(name: str) -> list[str]:
    """The versions there are of a name, readable or not."""
    return _folders_in(_models_folder() / name)


def labels() -> dict[str, list[str]]:
    """The labels of each full tag that has one."""
    found: dict[str, list[str]] = {}
    for (name, label), promotion in promotions.pointers(promotions.read(promotions_path())).items():
        found.setdefault(f"{name}:{promotion.to_version}", []).append(label)
    return found


def promotions_path() -> Path:
    """Where the log of promotions is, or will be. BentoML knows no labels that move, so that they are kept beside its store."""
    return _models_folder().parent / "loupe" / "promotions.jsonl"


def verify(model: StoredModel) -> None:
    """Check that every file of a model is the one that was saved.

    Raises:
        ModelCorrupted: If one is missing or differs; the message names it.
    """
    for name, expected in model.card.files.items():
        path = model.folder / name
        if not path.is_file():
            raise ModelCorrupted(model.tag, name, "is missing")
        if digest(path) != expected:
            raise ModelCorrupted(
                model.tag, name, "is not the file that was saved (its SHA-256 differs)"
            )


def remove_model(tag: str) -> None:
    """Remove the model of a full tag, readable or not; labels are the caller's matter.

    Raises:
        ModelNotFound: If there is none.
        StoreUnwritable: If it cannot be removed.
    """
    name, _, version = tag.partition(":")
    folder = _models_folder() / name / version
    with suppress(ModelCorrupted):
        if version not in versions(name) or _open(tag).info.module != MODULE:
            raise ModelNotFound(tag, _tags())
    try:
        leaving = _own_folder() / f"leaving-{name}-{version}"
        shutil.rmtree(leaving, ignore_errors=True)  # of one who was killed
        folder.rename(leaving)  # gone in one step, so that no half of a model is ever there
        latest = folder.parent / LATEST
        if latest.is_file() and latest.read_text().strip() == version:
            latest.unlink()  # BentoML makes it anew
        with suppress(OSError):
            folder.parent.rmdir()  # of the last version
        shutil.rmtree(leaving)
    except OSError as error:
        raise StoreUnwritable.of(error, folder) from error


def _models_folder() -> Path:
    try:
        return Path(BentoMLContainer.model_store.get()._path)
    except OSError as error:  # BentoML makes its folders when it is first asked for one
        home = os.environ.get("BENTOML_HOME", "~/bentoml")
        raise StoreUnwritable.of(error, Path(home)) from error


def _folders_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreUnwritable.of(error, folder) from error


def _own_folder() -> Path:
    folder = promotions_path().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _enter(place: Path, tag: bentoml.Tag) -> None:
    """Move a whole model from a store of its own into the one that counts, in one step."""
    folder = _models_folder() / tag.path()
    folder.parent.mkdir(exist_ok=True)
    (place / tag.path()).rename(folder)
    (place / tag.latest_path()).replace(folder.parent / LATEST)


def _labelled(name: str, label: str) -> str | None:
    """The version a label points at; none if the name has neither label nor version."""
    version, there = _pointer(name, label), versions(name)
    if version in there or not (version or there):
        return version
    known = [model.tag for model in list_models(name)]
    raise LabelNotFound(f"{name}:{label}", version and f"{name}:{version}", known)


def _default(name: str) -> str | None:
    version = _pointer(name, PRODUCTION)
    if version is None:
        return _newest(name)
    if version not in versions(name):
        logger.warning(
            "%s:%s is in production and not in the store; its newest version is taken",
            name,
            version,
        )
        return _newest(name)
    return version


def _pointer(name: str, label: str) -> str | None:
    promotion = promotions.pointers(promotions.read(promotions_path())).get((name, label))
    return None if promotion is None else promotion.to_version


def _newest(name: str) -> str | None:
    saved = _saved(name)
    return Path(saved[0].path).name if saved else None


def _tags() -> list[str]:
    return [model.tag for model in list_models()]


def _saved(name: str | None = None) -> list[bentoml.Model]:
    """What Loupe saved, newest first, whether or not its card can be read."""
    names = _folders_in(_models_folder()) if name is None else [name]
    saved = []
    for tag in [f"{name}:{version}" for name in names for version in versions(name)]:
        try:
            model = _open(tag)
        except ModelCorrupted as error:
            logger.warning("%s", error)
        else:
            saved.append(model)
    ours = [model for model in saved if model.info.module == MODULE]
    return sorted(ours, key=lambda model: model.creation_time, reverse=True)


def _open(tag: str) -> bentoml.Model:
    """What BentoML knows of a full tag; `ModelCorrupted` if it cannot read it."""
    try:
        return bentoml.Model.from_path(_models_folder() / tag.replace(":", "/"))
    except (
        BentoMLException,
        yaml.YAMLError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:
        raise ModelCorrupted(
            tag, "model.yaml", f"cannot be read ({error.__class__.__name__})"
        ) from error


def _read(model: bentoml.Model) -> StoredModel:
    folder = Path(model.path)
    tag = f"{folder.parent.name}:{folder.name}"  # what it is found by, whatever model.yaml says
    try:
        card = ModelCard.load(folder)
    except (OSError, ValueError) as error:
        raise ModelCorrupted(
            tag, "card.json", f"cannot be read ({error.__class__.__name__})"
        ) from error
    return StoredModel(tag, folder, card)
