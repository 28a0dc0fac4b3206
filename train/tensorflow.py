"""Import TensorFlow without its start-up chatter."""

import os
import sys
import tempfile
import warnings


def import_tensorflow() -> None:
    """Import TensorFlow and Keras; what their native code prints meanwhile is shown only if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # tf2onnx asks NumPy for a name that newer versions announce; nothing of ours depends on it.
    warnings.filterwarnings("ignore", message=".*np.object.*", category=FutureWarning)
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices()  # looks for GPUs, and complains where there are none
        except Exception:
            chatter.seek(0)
            os.write(terminal, chatter.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
