"""TensorBoard: the logs of a run, and the program that shows them during a training."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import keras
import tensorflow as tf

from loupe.runtime.ports import free_port
from loupe.runtime.processes import running, wait_until_ready


def logging_to(logs: Path) -> keras.callbacks.Callback:
    """Return a callback that writes the scalars of every epoch, and the graph."""
    return keras.callbacks.TensorBoard(str(logs), update_freq="epoch", write_graph=True)


def write_pictures(logs: Path, report: Path) -> None:
    """Copy the PNG files of a report to a run's TensorBoard logs."""
    with tf.summary.create_file_writer(str(logs / "report")).as_default(step=0):
        for picture in sorted(report.glob("*.png")):
            pixels = tf.io.decode_png(picture.read_bytes(), channels=3)
            tf.summary.image(picture.stem, pixels[tf.newaxis])


@contextmanager
def board(runs: Path) -> Iterator[str]:
    """Run TensorBoard over all runs until the block ends, and yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(runs), "--port", str(port)]
    with running("TensorBoard", command, log=runs / "tensorboard.log") as program:
        url = f"http://127.0.0.1:{port}"
        wait_until_ready(url, program)
        yield url
