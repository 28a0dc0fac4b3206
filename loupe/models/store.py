"""The BentoML model store: find, list, label, verify and remove models."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import bentoml
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from loupe.errors import ModelCorrupted, ModelNotFound
from loupe.files import file_inside
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
TRAIN_ONE = "Train one: loupe train fashion-mnist"
MAX_RECORD_BYTES = 2**24  # of model.yaml or card.json: enough for 100,000 classes
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
        return file_inside(self.folder, name)

    @property
    def size_bytes(self) -> int:
        """Size of all its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def model_not_found(tag: str | None, known: Sequence[str] | None = None) -> ModelNotFound:
    """Describe an unknown tag, or an empty store, with the known tags: by default the store's."""
    if tag is None:
        problem = "The model store is empty."
    else:
        shown = tag if len(tag) <= MAX_SHOWN_TAG else tag[:MAX_SHOWN_TAG] + "…"
        problem = f"There is no model {shown!r}."
    tags = [model.tag for model in list_models()] if known is None else known
    advice = f"There are: {', '.join(tags)}." if tags else TRAIN_ONE
    return ModelNotFound(f"{problem} {advice}")


def model_corrupted(tag: str, file: str, problem: str) -> ModelCorrupted:
    """Describe a model whose `file` is not as it was saved."""
    return ModelCorrupted(
        f"Model '{tag}' is corrupt: {file} {problem}. Delete it from the store and train again."
    )


def find_model(tag: str | None = None) -> StoredModel:
    """Return the model of a tag.

    Args:
        tag: `name:version`, `name:label`, `name:latest` for the newest version, or `name` for the
            version in production, else the newest. `None` means the first of `names()`.

    Raises:
        ModelNotFound: If the store has no such model.
        ModelCorrupted: If its card cannot be read.
    """
    if tag is None:
        tag = next(iter(names()), None)
        if tag is None:
            raise model_not_found(None)
    model = _open(full_tag(tag))
    if model.info.module != MODULE:
        raise model_not_found(tag)
    return _read(model)


def full_tag(tag: str) -> str:
    """Return the `name:version` that a tag means now, whether or not the model is readable.

    Raises:
        ModelNotFound: If there is no such model.
    """
    try:
        parsed = bentoml.Tag.from_taglike(tag)
    except (BentoMLException, ValueError) as error:
        raise model_not_found(tag) from error
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
        raise model_not_found(tag)
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
    """Return the names of readable models.

    They are in the order of their first promotions, and those never promoted follow, oldest first.
    So later trainings do not change the first name, which is the default.
    """
    promoted = [each.name for each in promotions.read(promotions_path())]
    readable = [model.name for model in reversed(list_models())]
    return [name for name in dict.fromkeys([*promoted, *readable]) if name in readable]


def revision() -> frozenset[tuple[str, int]]:
    """Return a value that changes with the store: paths and their modification times.

    Raises:
        NotWritable: If the store cannot be read.
    """
    folder = models_folder()
    below = [path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth)]
    times = {}
    for path in (promotions_path(), folder, *below, *trials_folder().glob("*.json")):
        with suppress(FileNotFoundError):  # removed since it was listed, or never written
            times[str(path)] = path.stat().st_mtime_ns
    return frozenset(times.items())


def versions(name: str) -> list[str]:
    """Return the versions of a name, readable or not."""
    return _folders_in(models_folder() / name)


def labels() -> dict[str, list[str]]:
    """Return the labels of each full tag that has some."""
    found: dict[str, list[str]] = {}
    for (name, label), promotion in promotions.pointers(promotions.read(promotions_path())).items():
        found.setdefault(f"{name}:{promotion.to_version}", []).append(label)
    return found


def promotions_path() -> Path:
    """Return the path of the promotion log; BentoML's own labels cannot move."""
    return models_folder().parent / "loupe" / "promotions.jsonl"


def trials_folder() -> Path:
    """Return the folder of the records of trials."""
    return promotions_path().parent / "trials"


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
    folder = models_folder() / name / version
    with suppress(ModelCorrupted):
        if version not in versions(name) or _open(tag).info.module != MODULE:
            raise model_not_found(tag)
    try:
        leaving = own_folder() / f"leaving-{name}-{version}"
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


def models_folder() -> Path:
    """Return BentoML's folder of models.

    Raises:
        NotWritable: If it cannot be created.
    """
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


def own_folder() -> Path:
    """Return Loupe's folder next to the models, on the same disk."""
    folder = promotions_path().parent
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _labelled(name: str, label: str) -> str | None:
    """Return the version a label points at, or `None` if the name has neither label nor version."""
    version, existing = _pointer(name, label), versions(name)
    if version in existing or not (version or existing):
        return version
    deleted = f"points at {name}:{version}, which was deleted"
    problem = deleted if version else "has never been given"
    known = ", ".join(model.tag for model in list_models(name))
    advice = f"Promote one of {known}: loupe models promote TAG"
    raise ModelNotFound(
        f"There is no model '{name}:{label}': the label '{label}' {problem}. "
        + (advice if known else f"There is no model '{name}'."),
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


def _saved(name: str | None = None) -> list[bentoml.Model]:
    """Return the models that Loupe saved, newest first, with or without a readable card."""
    names = _folders_in(models_folder()) if name is None else [name]
    saved = []
    for tag in [f"{name}:{version}" for name in names for version in versions(name)]:
        try:
            saved.append(_open(tag))
        except ModelCorrupted as error:
            logger.warning("%s", error)
    ours = [model for model in saved if model.info.module == MODULE]
    return sorted(ours, key=lambda model: model.creation_time, reverse=True)


def _open(tag: str) -> bentoml.Model:
    """Return BentoML's record of a full tag."""
    folder = models_folder() / tag.replace(":", "/")
    with _reading(tag, folder, "model.yaml"):
        return bentoml.Model.from_path(folder)


def _read(model: bentoml.Model) -> StoredModel:
    folder = Path(model.path)
    tag = f"{folder.parent.name}:{folder.name}"  # by its path; model.yaml may differ
    with _reading(tag, folder, CARD_FILE):
        return StoredModel(tag, folder, ModelCard.load(folder))


@contextmanager
def _reading(tag: str, folder: Path, file: str) -> Iterator[None]:
    """Call a model corrupt if one of its files cannot be read in the block."""
    try:
        path = file_inside(folder, file)
        if path is None or path.stat().st_size > MAX_RECORD_BYTES:
            raise FileNotFoundError
        yield
    except UNREADABLE as error:
        raise model_corrupted(tag, file, f"cannot be read ({type(error).__name__})") from error
