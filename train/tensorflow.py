"""TensorFlow: a quiet import, errors about memory, and bfloat16 where the processor has it."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loupe.errors import ProgramFailed

CPU_FLAGS = Path("/proc/cpuinfo")
BFLOAT16_FLAGS = ("amx_bf16", "avx512_bf16")
BFLOAT16_OPTION = "auto_mixed_precision_onednn_bfloat16"


@contextmanager
def quiet(*, on_failure: bool = False) -> Iterator[None]:
    """Discard what native code writes to standard error, unless the block fails.

    With `on_failure`, discard it then, too: for failures that users expect.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as output:
        os.dup2(output.fileno(), 2)
        try:
            yield
        except Exception:
            if not on_failure:
                output.seek(0)
                os.write(terminal, output.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def import_tensorflow() -> None:
    """Import TensorFlow and Keras without their log output."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # tf2onnx uses a NumPy name that newer versions deprecate; nothing of ours depends on it.
    warnings.filterwarnings("ignore", message=".*np.object.*", category=FutureWarning)
    with quiet():
        import tensorflow

        # Searches for GPUs, and warns if it finds none.
        tensorflow.config.list_physical_devices()
    logging.getLogger("tensorflow").addFilter(_is_no_retracing_warning)


@contextmanager
def translate_memory_errors() -> Iterator[None]:
    """Raise `ProgramFailed` if the block needs more memory than there is."""
    import tensorflow as tf

    try:
        yield
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise ProgramFailed(
            "The memory is too small for this training. Lower --batch-size or --hidden.",
            code="out_of_memory",
        ) from error


def _is_no_retracing_warning(record: logging.LogRecord) -> bool:
    """Return false for the warning that TensorFlow logs when a process trains several models."""
    return "triggered tf.function retracing" not in record.getMessage()


@contextmanager
def bfloat16_convolutions(enabled: bool) -> Iterator[None]:
    """Compute convolutions and matrix products in bfloat16, if the processor can.

    Sums, normalisation and weights stay float32.
    Source: `tf.config.optimizer.set_experimental_options`, TensorFlow's API documentation.
    """
    if not enabled or not has_bfloat16():
        yield
        return
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({BFLOAT16_OPTION: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({BFLOAT16_OPTION: False})


def has_bfloat16() -> bool:
    """Return whether Linux lists instructions for bfloat16 among the processor's features.

    AMX units make trainings twice as fast, AVX-512's instructions by half.
    """
    flags = CPU_FLAGS.read_text() if CPU_FLAGS.exists() else ""
    return any(f" {name} " in flags for name in BFLOAT16_FLAGS)
