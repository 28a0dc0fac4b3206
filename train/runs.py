"""Runs: what a training was asked for and where it stands, in a folder of its own, so that it can be resumed."""

import shutil
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from loupe.images.spec import Look
from loupe.old_errors.train import CheckpointFailed, RunNotFound
from train.config import TrainConfig
from train.data.datasets import DIGITS, Dataset, load_dataset
from train.data.extra import mix
from train.data.splits import SPLIT_SEED

REQUEST_FILE = "request.json"


class Source(BaseModel):
    """Which images a training was asked to learn from; see `train.datasets.load_dataset` and `train.extra.mix`."""

    model_config = ConfigDict(frozen=True)

    dataset: str
    data_dir: Path | None = None
    look: Look | None = None
    extra: str | None = None
    extra_classes: Path | None = None

    @property
    def split_here(self) -> bool:
        """Whether the data set may come without a test split, so that one is split off with a fraction and a seed."""
        return self.dataset in DIGITS or self.dataset.startswith("folder:")

    def load(self, *, test_fraction: float | None = None, split_seed: int = SPLIT_SEED) -> Dataset:
        """The images, with the user's own pictures mixed in."""
        dataset = load_dataset(
            self.dataset,
            self.data_dir,
            look=self.look,
            test_fraction=test_fraction,
            split_seed=split_seed,
        )
        return mix(dataset, self.extra, self.extra_classes) if self.extra else dataset


class Request(BaseModel):
    """Everything `loupe train` was asked for."""

    model_config = ConfigDict(frozen=True)

    source: Source
    config: TrainConfig
    min_accuracy: float | None = None


class Run:
    """One training's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def start(cls, home: Path, request: Request) -> "Run":
        """A new folder below a data folder, named after data set and time.

        Raises:
            CheckpointFailed: If it cannot be made.
        """
        stem = "".join(
            letter if letter.isalnum() else "-"
            for letter in request.source.dataset.rpartition("/")[2]
        )
        name = f"{stem}-{request.config.architecture}-{datetime.now(timezone.utc):%Y%m%d-%H%M%S-%f}"
        run = cls(_runs(home) / name)
        try:
            run.checkpoints.mkdir(parents=True)
            run._write(request)
        except OSError as error:
            raise CheckpointFailed(str(run.folder), str(error), 0) from error
        return run

    @classmethod
    def find(cls, home: Path, name: str) -> "Run":
        """An unfinished run by its name.

        Raises:
            RunNotFound: If there is none; the message lists those that can be resumed.
        """
        unfinished = sorted(file.parent.name for file in _runs(home).glob(f"*/{REQUEST_FILE}"))
        if name not in unfinished:
            raise RunNotFound(name, str(_runs(home)), unfinished)
        return cls(_runs(home) / name)

    @property
    def name(self) -> str:
        """What `--resume` takes."""
        return self.folder.name

    @property
    def checkpoints(self) -> Path:
        """Where the weights of the best and the last epoch are."""
        return self.folder / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard's logs are."""
        return self.folder / "tensorboard"

    def request(self) -> Request:
        """What the training was asked for."""
        return Request.model_validate_json((self.folder / REQUEST_FILE).read_bytes())

    def change_epochs(self, epochs: int) -> None:
        """Train for fewer or more epochs than the run was begun with; the learning rate then goes as if it had always been so."""
        request = self.request()
        self._write(request.model_copy(update={"config": replace(request.config, epochs=epochs)}))

    def finish(self) -> None:
        """Take away what only an unfinished run needs; TensorBoard's logs stay."""
        shutil.rmtree(self.checkpoints)
        (self.folder / REQUEST_FILE).unlink()

    def _write(self, request: Request) -> None:
        (self.folder / REQUEST_FILE).write_text(request.model_dump_json(indent=1), encoding="utf-8")


def _runs(home: Path) -> Path:
    return home / "runs"
