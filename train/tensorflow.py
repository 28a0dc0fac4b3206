"""TensorFlow without the chatter of its native code."""

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what native code writes to standard error; it is shown only if the block fails."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield
        except Exception:
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def import_tensorflow() -> None:
    """Import TensorFlow and Keras."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # tf2onnx asks NumPy for a name that newer versions announce; nothing of ours depends on it.
    warnings.filterwarnings("ignore", message=".*np.object.*", category=FutureWarning)
    with quiet():
        import tensorflow

        tensorflow.config.list_physical_devices()  # looks for GPUs, and complains where there are none
    logging.getLogger("tensorflow").addFilter(_not_of_many_models)


def _not_of_many_models(record: logging.LogRecord) -> bool:
    """False of a warning that takes models which are trained one after the other for one that is built again and again."""
    return "triggered tf.function retracing" not in record.getMessage()
