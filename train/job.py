"""The job behind `loupe train`: a run in, a model in the store out."""

from rich.console import Console

from loupe.models.store import StoredModel, check_writable
from train.data.datasets import Dataset
from train.evaluate.report import PICTURES_FOLDER
from train.fit import board
from train.fit.progress import ProgressBar
from train.fit.training import train
from train.runs import Run


def work(run: Run, dataset: Dataset, console: Console) -> StoredModel:
    """Train what a run was asked for, going on where it stands.

    Raises:
        LoupeError: Whatever is wrong with the store, the training or the model; the run stays, to be resumed.
    """
    check_writable()  # told now, not after the training
    request = run.request()
    model = train(
        dataset,
        request.config,
        min_accuracy=request.min_accuracy,
        folder=run.checkpoints,
        callbacks=[ProgressBar(console, request.config), board.logging_to(run.tensorboard)],
    )
    board.write_pictures(run.tensorboard, model.folder / PICTURES_FOLDER)
    run.finish()
    return model
