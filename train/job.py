"""The job behind `loupe train`: a run in, a model in the store out."""

import numpy as np
from rich.console import Console

from loupe.store import StoredModel
from train import board
from train.datasets import Dataset
from train.progress import ProgressBar
from train.runs import Run
from train.training import train

UNEVEN = 2.0  # times as many images as the rarest class has, from which on class weights are worth a thought


def work(run: Run, dataset: Dataset, console: Console) -> StoredModel:
    """Train what a run was asked for, going on where it stands.

    Raises:
        LoupeError: Whatever is wrong with the training or the model; the run stays, to be resumed.
    """
    request = run.request()
    model = train(
        dataset,
        request.config,
        min_accuracy=request.min_accuracy,
        folder=run.checkpoints,
        callbacks=[ProgressBar(console, request.config), board.logging_to(run.tensorboard)],
    )
    board.write_pictures(run.tensorboard, model.folder / "report")
    run.finish()
    return model


def introduce(dataset: Dataset, console: Console) -> None:
    """Say what there is to learn from."""
    counts = f"{len(dataset.train.images):,} images to train on, {len(dataset.test.images):,} to test with"
    console.print(f"{dataset.name}: {counts}", highlight=False)
    per_class = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
    if per_class.max() > UNEVEN * per_class.min():
        console.print(
            f"The classes are uneven, {per_class.min():,} to {per_class.max():,} images: consider --class-weights.",
            highlight=False,
        )
