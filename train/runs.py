"""Training runs: one folder each with the request and the checkpoints, so that they can resume."""

import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from rich.console import Console

from loupe.errors import InvalidUsage, ProgramFailed
from loupe.files import write_atomically
from loupe.images.spec import Look
from train.config import TrainConfig, changed
from train.data.datasets import DIGITS, Dataset, load_dataset
from train.data.extra import add_pictures
from train.data.folders import slug
from train.data.splits import SPLIT_SEED

if TYPE_CHECKING:
    from loupe.models.store import StoredModel

REQUEST_FILE = "request.json"


class DataSource(BaseModel):
    """The images to learn from: arguments of `load_dataset` and `add_pictures`."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    data_dir: Path | None = None
    look: Look | None = None
    extra: str | None = None
    extra_classes: Path | None = None

    @property
    def split_here(self) -> bool:
        """True for data sets that may come without a test split, so that Loupe splits them."""
        return self.dataset in DIGITS or self.dataset.startswith("folder:")

    def load(self, *, test_fraction: float | None = None, split_seed: int = SPLIT_SEED) -> Dataset:
        """Load the images, with the user's own pictures added."""
        dataset = load_dataset(
            self.dataset,
            self.data_dir,
            look=self.look,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        return add_pictures(dataset, self.extra, self.extra_classes) if self.extra else dataset


class TrainRequest(BaseModel):
    """The arguments of a `loupe train` command."""

    model_config = ConfigDict(frozen=True)

    source: DataSource
    config: TrainConfig
    min_accuracy: float | None = None


class Run:
    """The folder of one training run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = folder.name  # what `--resume` takes
        self.checkpoints = folder / "checkpoints"
        self.tensorboard = folder / "tensorboard"

    @classmethod
    def start(cls, home: Path, request: TrainRequest) -> "Run":
        """Create a run below the data folder, named after the data set and the time."""
        dataset = slug(request.source.dataset.rpartition("/")[2])
        started = datetime.now(timezone.utc).strftime("%Y%m%d-%H%M%S-%f")
        run = cls(home / "runs" / f"{dataset}-{request.config.architecture}-{started}")
        try:
            run.checkpoints.mkdir(parents=True)
            run._write(request)
        except OSError as error:
            raise ProgramFailed(
                f"Cannot create the run {run.folder}: {error}. Free some space or set "
                "LOUPE_DATA_DIR.",
                code="checkpoint_failed",
            ) from error
        return run

    @classmethod
    def find(cls, home: Path, name: str) -> "Run":
        """Return an unfinished run; refuse an unknown name with the list of those that exist."""
        runs = home / "runs"
        unfinished = sorted(file.parent.name for file in runs.glob(f"*/{REQUEST_FILE}"))
        if name not in unfinished:
            raise InvalidUsage(
                f"No unfinished run '{name}' in {runs}. "
                f"Unfinished runs: {', '.join(unfinished) or 'none'}.",
                code="run_not_found",
            )
        return cls(runs / name)

    def request(self) -> TrainRequest:
        """Return the request that started the run."""
        return TrainRequest.model_validate_json((self.folder / REQUEST_FILE).read_bytes())

    def change_epochs(self, epochs: int) -> None:
        """Change the number of epochs; the learning-rate schedule is that of the new number."""
        request = self.request()
        config = changed(request.config, epochs=epochs)
        self._write(request.model_copy(update={"config": config}))

    def finish(self) -> None:
        """Delete what only an unfinished run needs; keep TensorBoard's logs."""
        shutil.rmtree(self.checkpoints)
        (self.folder / REQUEST_FILE).unlink()

    def _write(self, request: TrainRequest) -> None:
        write_atomically(self.folder / REQUEST_FILE, request.model_dump_json(indent=1))


def train_run(run: Run, dataset: Dataset, console: Console) -> "StoredModel":
    """Train or resume a run, and save the model to the store.

    Raises:
        LoupeError: If the store, the training or the model fails; the run can be resumed.
    """
    import tensorflow as tf

    from loupe.models.saving import check_writable
    from train.evaluate.report import PICTURES_FOLDER
    from train.fit import board
    from train.fit.progress import ProgressBar
    from train.fit.training import train

    check_writable()  # fails before the training, not after it
    request = run.request()
    try:
        model = train(
            dataset,
            request.config,
            min_accuracy=request.min_accuracy,
            folder=run.checkpoints,
            callbacks=[ProgressBar(console, request.config), board.logging_to(run.tensorboard)],
        )
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ProgramFailed(
            "The memory is too small for this training. Lower --batch-size or --hidden.",
            code="out_of_memory",
        ) from error
    figures = model.card.figures
    console.print(f"test accuracy {figures.accuracy:.4f}, {figures.training_seconds:.0f} s")
    board.write_pictures(run.tensorboard, model.folder / PICTURES_FOLDER)
    run.finish()
    return model
