"""Training runs: one folder each with the request and the checkpoints, so that they can resume."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from loupe.errors import InvalidUsage, ProgramFailed, SourceChanged
from loupe.files import write_atomically
from train.config import TrainConfig, changed
from train.data.datasets import Dataset
from train.data.own.folders import slug
from train.data.source import DataSource
from train.data.splits import hold_out
from train.locks import locked

if TYPE_CHECKING:
    from loupe.models.store import StoredModel

REQUEST_FILE = "request.json"
LOCK_FILE = "lock"


class TrainRequest(BaseModel):
    """The arguments of a `loupe train` command, and the images that they meant at its start.

    Attributes:
        source: The images.
        config: The hyperparameters.
        images: `Dataset.fingerprint`, with the validation split.
        min_accuracy: Minimum test accuracy to save the model.
        name: Name of the model; runs of older versions have none, and take the data set's.
        replace_classes: Whether earlier models of the name may have other classes.
    """

    model_config = ConfigDict(frozen=True)

    source: DataSource
    config: TrainConfig
    images: dict[str, str]
    min_accuracy: float | None = None
    name: str | None = None
    replace_classes: bool = False

    def changed(self, epochs: int | None, min_accuracy: float | None) -> "TrainRequest":
        """Return the request with what a resumed run may change; `None` keeps a value."""
        update: dict[str, object] = {}
        if epochs is not None:
            update["config"] = changed(self.config, epochs=epochs)
        if min_accuracy is not None:
            update["min_accuracy"] = min_accuracy
        return self.model_copy(update=update)


class Run:
    """The folder of one training run.

    Attributes:
        name: The name that `--resume` takes.
        checkpoints: Folder of the state and the weights.
        tensorboard: Folder of TensorBoard's logs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name
        self.checkpoints = folder / "checkpoints"
        self.tensorboard = folder / "tensorboard"

    @classmethod
    @contextmanager
    def start(
        cls,
        home: Path,
        source: DataSource,
        dataset: Dataset,
        config: TrainConfig,
        **options: Any,
    ) -> Iterator["Run"]:
        """Create a run below the data folder, and lock it while the block runs.

        `options` are further fields of `TrainRequest`. The run's name consists of the data set,
        the architecture and the time. The model's name is settled here: the data set may have
        another one when the run is resumed, if a link has replaced its folder.
        """
        options["name"] = options.get("name") or dataset.name
        kind, _, path = source.dataset.partition(":")
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
        name = slug(f"{kind}-{Path(path).name}")
        run = cls(home / "runs" / f"{name}-{config.architecture}-{started}")
        request = TrainRequest(
            source=source,
            config=config,
            images=hold_out(dataset, config).fingerprint(),
            **options,
        )
        try:
            run.checkpoints.mkdir(parents=True)
            run._write(request)
        except OSError as error:
            raise ProgramFailed(
                f"Cannot create the run {run.folder}: {error}. Free some space or set "
                "LOUPE_DATA_DIR.",
                code="checkpoint_failed",
            ) from error
        with run._locked():
            yield run

    @classmethod
    @contextmanager
    def resume(
        cls, home: Path, name: str, epochs: int | None = None, min_accuracy: float | None = None
    ) -> Iterator[tuple["Run", Dataset]]:
        """Yield an unfinished run and its images, and lock the run while the block runs.

        Args:
            home: The data folder.
            name: The run.
            epochs: New number of epochs, if any; the learning-rate schedule follows it.
            min_accuracy: New minimum test accuracy, if any.

        Raises:
            InvalidUsage: If there is no such run, or it has more epochs already.
            Conflict: If another process trains it, or its files are damaged.
            SourceChanged: If the images are not those of the start.
        """
        runs = home / "runs"
        unfinished = sorted(file.parent.name for file in runs.glob(f"*/{REQUEST_FILE}"))
        if name not in unfinished:
            raise InvalidUsage(
                f"No unfinished run '{name}' in {runs}. "
                f"Unfinished runs: {', '.join(unfinished) or 'none'}.",
                code="run_not_found",
            )
        run = cls(runs / name)
        with run._locked():
            request = run.request().changed(epochs, min_accuracy)
            run._check_epochs(request.config.epochs)
            dataset = request.source.load()
            run._check_images(request, dataset)
            run._write(request)
            yield run, dataset

    def request(self) -> TrainRequest:
        """Return the request that started the run, or raise `Conflict` if it is damaged."""
        from train.fit.state import damaged

        file = self.folder / REQUEST_FILE
        try:
            return TrainRequest.model_validate_json(file.read_bytes())
        except (OSError, ValueError) as error:
            raise damaged(file, error) from error

    def finish(self) -> None:
        """Delete what only an unfinished run needs; keep TensorBoard's logs."""
        shutil.rmtree(self.checkpoints)
        for name in (REQUEST_FILE, LOCK_FILE):
            (self.folder / name).unlink()

    def _write(self, request: TrainRequest) -> None:
        write_atomically(self.folder / REQUEST_FILE, request.model_dump_json(indent=1))

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self.folder / LOCK_FILE, f"trains the run '{self.name}'", "run_in_use")

    def _check_epochs(self, epochs: int) -> None:
        """Refuse fewer epochs than are done: the model's best epoch may be a later one."""
        from train.fit.state import State

        done = State.load(self.checkpoints).epochs_done
        if epochs < done:
            raise InvalidUsage(
                f"The run '{self.name}' has done {done:,} epochs, so it cannot end after "
                f"{epochs:,}. Use --epochs {done} to save its best epoch so far.",
                code="invalid_training",
            )

    def _check_images(self, request: TrainRequest, dataset: Dataset) -> None:
        """Refuse other images than at the start: the model may have learnt the test images."""
        now = hold_out(dataset, request.config).fingerprint()
        differences = [
            f"{name}: {request.images.get(name)} then, {now.get(name)} now"
            for name in {**request.images, **now}
            if request.images.get(name) != now.get(name)
        ]
        if differences:
            raise SourceChanged(
                f"The images of the run '{self.name}' have changed, so its test split would hold "
                f"images that it has learnt: {'; '.join(differences)}. Restore the images of "
                f"{request.source.dataset}, or start a new training."
            )


def train_run(run: Run, dataset: Dataset, console: Console) -> "StoredModel":
    """Train or resume a run, and save the model to the store.

    Raises:
        LoupeError: If the store, the training or the model fails; the run can be resumed.
    """
    from loupe.models.saving import check_writable
    from train.evaluate.report import PICTURES_FOLDER
    from train.fit import board
    from train.fit.progress import ProgressBar
    from train.fit.training import train
    from train.tensorflow import translate_memory_errors

    check_writable()  # fails before the training, not after it
    request = run.request()
    try:
        with translate_memory_errors():
            model = train(
                dataset,
                request.config,
                name=request.name,
                replace_classes=request.replace_classes,
                min_accuracy=request.min_accuracy,
                folder=run.checkpoints,
                callbacks=[ProgressBar(console, request.config), board.logging_to(run.tensorboard)],
            )
    except ProgramFailed as error:
        if error.code == "accuracy_too_low":
            command = f"loupe train --resume {run.name} --min-accuracy NUMBER"
            error.args = (f"{error.message} To save it: {command}.",)
        raise
    board.write_pictures(run.tensorboard, model.folder / PICTURES_FOLDER)
    run.finish()
    return model
