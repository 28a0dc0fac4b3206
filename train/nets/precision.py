"""Number formats that training computes in."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf

CPU_FLAGS = Path("/proc/cpuinfo")


@contextmanager
def bfloat16_convolutions(wanted: bool) -> Iterator[None]:
    """Let what is trained in this block compute its convolutions and matrix products in bfloat16, if the processor has units for it.

    Sums, normalisations and weights stay float32, so nothing else about a training changes.
    Source: TensorFlow's `auto_mixed_precision_onednn_bfloat16`, of `tf.config.optimizer.set_experimental_options`.
    """
    if not wanted or not has_amx():
        yield
        return
    tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options(
            {"auto_mixed_precision_onednn_bfloat16": False}
        )


def has_amx() -> bool:
    """Whether the processor multiplies matrices of bfloat16 in units of their own, as Linux tells it."""
    return CPU_FLAGS.exists() and " amx_bf16 " in CPU_FLAGS.read_text()
