"""The BentoML model store: save, find, list, label, verify and remove models.

No other module knows the store's folders.
"""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bentoml
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from bentoml.exceptions import BentoMLException

from loupe.errors import ModelCorrupted, ModelNotFound
from loupe.models import promotion_log as promotions
from loupe.models.card import FILE_NAME as CARD_FILE
from loupe.models.card import ModelCard, digest
from loupe.models.promotion_log import store_unwritable

logger = logging.getLogger(__name__)

KERAS_FILE = "model.keras"
ONNX_FILE = "model.onnx"
REPORT_FILE = "report.html"
MODULE = "loupe.store"  # BentoML's name for the code that understands a stored model
PRODUCTION = "production"  # label of the version that `name` alone means
LATEST = "latest"  # BentoML's word for the newest version, and the file that names it
MAX_SHOWN_TAG = 80  # characters of a tag in an error
UNREADABLE = (
    *(BentoMLException, yaml.YAMLError, OSError),
    *(ValueError, LookupError, TypeError, AttributeError),
)


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

    def file(self, name: str) -> Path | None:
        """Return the path of one of its files, if there is a regular file inside its folder."""
        return self.folder / name if _is_inside(self.folder, name) else None

    @property
    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def model_not_found(tag: str | None, known: Sequence[str]) -> ModelNotFound:
    """Describe an unknown tag, or an empty store, with the tags that exist."""
    if tag is None:
        problem = "The model store is empty."
    else:
        shown = tag if len(tag) <= MAX_SHOWN_TAG else tag[:MAX_SHOWN_TAG] + "…"
        problem = f"There is no model {shown!r}."
    advice = "Train one: loupe train --dataset fashion-mnist"
    if known:
        advice = f"There are: {', '.join(known)}."
    return ModelNotFound(f"{problem} {advice}")


def model_corrupted(tag: str, file: str, problem: str) -> ModelCorrupted:
    """Describe a model whose `file` is not as it was saved."""
    return ModelCorrupted(
        f"Model '{tag}' is corrupt: {file} {problem}. Delete it from the store and train again."
    )


@contextmanager
def new_model(name: str, card: ModelCard) -> Iterator[bentoml.Model]:
    """Save a model: write its files into `model.path` inside the block.

    The model enters the store, whole, when the block ends without an error.

    Raises:
        NotWritable: If a file cannot be written, inside the block or after it.
    """
    labels = {"dataset": card.dataset, "framework": "keras", "look": card.look}
    metadata = {
        "accuracy": card.figures.accuracy,
        "classes": len(card.class_names),
        "digests": dict(card.files),
    }
    try:
        # BentoML copies file by file, so a killed process would leave half a model in the store.
        # Save into a temporary store, then move the folder in one step.
        with tempfile.TemporaryDirectory(dir=_own_folder(), prefix="saving-") as temporary:
            store = ModelStore(temporary)
            with bentoml.models.create(
                name, module=MODULE, labels=labels, metadata=metadata, _model_store=store
            ) as model:
                card.save(Path(model.path))
                yield model
            _enter(Path(temporary), model.tag)
    except FileNotFoundError:
        raise  # the block failed to read something, which does not concern the store
    except OSError as error:
        raise store_unwritable(error, _models_folder()) from error


def check_writable() -> None:
    """Check before a training that a model can be saved after it.

    Raises:
        NotWritable: If it cannot.
    """
    try:
        for folder in (_models_folder(), _own_folder()):
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\n")
    except OSError as error:
        raise store_unwritable(error, _models_folder()) from error


def find_model(tag: str | None = None) -> StoredModel:
    """Return the model of a tag.

    Args:
        tag: `name:version`, `name:label`, `name:latest` for the newest version, or `name` for the
            version in production, else the newest. `None` means the name of the newest model.

    Raises:
        ModelNotFound: If the store has no such model.
        ModelCorrupted: If its card cannot be read.
    """
    if tag is None:
        newest = list_models()
        if not newest:
            raise model_not_found(None, [])
        tag = newest[0].name
    model = _open(full_tag(tag))
    if model.info.module != MODULE:
        raise model_not_found(tag, _tags())
    return _read(model)


def full_tag(tag: str) -> str:
    """Return the `name:version` that a tag means now, whether or not the model is readable.

    Raises:
        ModelNotFound: If there is no such model.
    """
    try:
        parsed = bentoml.Tag.from_taglike(tag)
    except (BentoMLException, ValueError) as error:
        raise model_not_found(tag, _tags()) from error
    name, version = parsed.name, parsed.version
    if version == PRODUCTION:
        version = _labelled(name, PRODUCTION)
    elif version is None:
        version = _default(name)
    elif version == LATEST:
        version = _newest(name)
    else:
        matches = [each for each in versions(name) if each.startswith(version)]
        if version not in matches:
            version = matches[0] if len(matches) == 1 else None
    if version is None:
        raise model_not_found(tag, _tags())
    return f"{name}:{version}"


def list_models(name: str | None = None) -> list[StoredModel]:
    """Return all readable models that Loupe saved, or those of one name, newest first."""
    readable = []
    for model in _saved(name):
        try:
            readable.append(_read(model))
        except ModelCorrupted as error:
            logger.warning("%s", error)
    return readable


def names() -> list[str]:
    """Return the names of readable models, that of the newest model first."""
    return list(dict.fromkeys(model.name for model in list_models()))


def revision() -> frozenset[tuple[str, int]]:
    """Return a value that changes with the store: paths and their modification times.

    Raises:
        NotWritable: If the store cannot be read.
    """
    folder = _models_folder()
    below = [path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth)]
    times = {}
    for path in (promotions_path(), folder, *below):
        with suppress(FileNotFoundError):  # removed since it was listed, or never written
            times[str(path)] = path.stat().st_mtime_ns
    return frozenset(times.items())


def versions(name: str) -> list[str]:
    """Return the versions of a name, readable or not."""
    return _folders_in(_models_folder() / name)


def labels() -> dict[str, list[str]]:
    """Return the labels of each full tag that has some."""
    found: dict[str, list[str]] = {}
    for (name, label), promotion in promotions.pointers(promotions.read(promotions_path())).items():
        found.setdefault(f"{name}:{promotion.to_version}", []).append(label)
    return found


def promotions_path() -> Path:
    """Return the path of the promotion log; BentoML's own labels cannot move."""
    return _models_folder().parent / "loupe" / "promotions.jsonl"


def verify(model: StoredModel) -> None:
    """Check that every file of a model is the one that was saved.

    Raises:
        ModelCorrupted: If one is missing or differs.
    """
    for name, expected in model.card.files.items():
        path = model.file(name)
        if path is None:
            raise model_corrupted(model.tag, name, "is missing")
        if digest(path) != expected:
            raise model_corrupted(
                model.tag, name, "is not the file that was saved (its SHA-256 differs)"
            )


def remove_model(tag: str) -> None:
    """Remove the model of a full tag, readable or not. The caller has checked its labels.

    Raises:
        ModelNotFound: If the store has no such model.
        NotWritable: If it cannot be removed.
    """
    name, _, version = tag.partition(":")
    folder = _models_folder() / name / version
    with suppress(ModelCorrupted):
        if version not in versions(name) or _open(tag).info.module != MODULE:
            raise model_not_found(tag, _tags())
    try:
        leaving = _own_folder() / f"leaving-{name}-{version}"
        shutil.rmtree(leaving, ignore_errors=True)  # left by a process that was killed
        folder.rename(leaving)  # one step, so that readers never see half a model
        latest = folder.parent / LATEST
        if latest.is_file() and latest.read_text().strip() == version:
            latest.unlink()  # BentoML writes a new one
        with suppress(OSError):
            folder.parent.rmdir()  # succeeds after the last version
        shutil.rmtree(leaving)
    except OSError as error:
        raise store_unwritable(error, folder) from error


def _models_folder() -> Path:
    try:
        return Path(BentoMLContainer.model_store.get()._path)
    except OSError as error:  # BentoML creates its folders on first use
        home = os.environ.get("BENTOML_HOME", "~/bentoml")
        raise store_unwritable(error, Path(home)) from error


def _folders_in(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise store_unwritable(error, folder) from error


def _is_inside(folder: Path, name: str) -> bool:
    """Return whether there is a regular file, to which no link or `..` leads out of the folder."""
    try:
        target = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):  # missing, or a link to itself
        return False
    return target.is_file() and target.is_relative_to(folder.resolve())


def _own_folder() -> Path:
    folder = promotions_path().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _enter(temporary: Path, tag: bentoml.Tag) -> None:
    """Move a whole model from a temporary store into the real one, in one step."""
    folder = _models_folder() / tag.path()
    folder.parent.mkdir(exist_ok=True)
    (temporary / tag.path()).rename(folder)
    (temporary / tag.latest_path()).replace(folder.parent / LATEST)


def _labelled(name: str, label: str) -> str | None:
    """Return the version a label points at, or `None` if the name has neither label nor version."""
    version, existing = _pointer(name, label), versions(name)
    if version in existing or not (version or existing):
        return version
    problem = "has never been given"
    if version:
        problem = f"points at {name}:{version}, which was deleted"
    known = ", ".join(model.tag for model in list_models(name))
    advice = f"There is no model '{name}'."
    if known:
        advice = f"Promote one of {known}: loupe models promote TAG"
    raise ModelNotFound(
        f"There is no model '{name}:{label}': the label '{label}' {problem}. {advice}",
        code="label_not_found",
    )


def _default(name: str) -> str | None:
    version = _pointer(name, PRODUCTION)
    if version is None or version in versions(name):
        return version or _newest(name)
    logger.warning("%s:%s is in production but not in the store; using the newest", name, version)
    return _newest(name)


def _pointer(name: str, label: str) -> str | None:
    promotion = promotions.pointers(promotions.read(promotions_path())).get((name, label))
    return None if promotion is None else promotion.to_version


def _newest(name: str) -> str | None:
    saved = _saved(name)
    return Path(saved[0].path).name if saved else None


def _tags() -> list[str]:
    return [model.tag for model in list_models()]


def _saved(name: str | None = None) -> list[bentoml.Model]:
    """Return the models that Loupe saved, newest first, with or without a readable card."""
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
    """Return BentoML's record of a full tag."""
    folder = _models_folder() / tag.replace(":", "/")
    try:
        if not _is_inside(folder, "model.yaml"):
            raise FileNotFoundError
        return bentoml.Model.from_path(folder)
    except UNREADABLE as error:
        problem = f"cannot be read ({error.__class__.__name__})"
        raise model_corrupted(tag, "model.yaml", problem) from error


def _read(model: bentoml.Model) -> StoredModel:
    folder = Path(model.path)
    tag = f"{folder.parent.name}:{folder.name}"  # by its path; model.yaml may differ
    try:
        if not _is_inside(folder, CARD_FILE):
            raise FileNotFoundError
        card = ModelCard.load(folder)
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error.__class__.__name__})"
        raise model_corrupted(tag, CARD_FILE, problem) from error
    return StoredModel(tag, folder, card)
