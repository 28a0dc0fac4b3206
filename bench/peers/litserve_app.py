"""A peer on LitServe with dynamic batching, in its fastest configuration on two cores.

Run it with `python -m bench.peers.litserve_app MODEL_FOLDER PORT`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import litserve
import numpy as np
from fastapi import Body
from numpy.typing import NDArray
from starlette.responses import Response

from bench.peers.bare_app import BareModel, decode, make_response

MAX_BATCH_SIZE = 16  # the number of connections: a full batch leaves without waiting
BATCH_TIMEOUT_SECONDS = 0.01  # shorter ones gave smaller batches; with 0 the worker never sleeps


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Classifies single PNGs.

    Args:
        folder: Folder of the model.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT_SECONDS)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Load the model in the worker process."""
        self._model = BareModel(self._folder)

    def decode_request(
        self, request: Annotated[bytes, Body(media_type="image/png")]
    ) -> NDArray[np.uint8]:
        """Decode a PNG to uint8 `(28, 28)`."""
        return decode(request)

    def batch(self, inputs: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Stack images to uint8 `(n, 28, 28)`."""
        return np.stack(inputs)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the model: uint8 `(n, 28, 28)` → probabilities, float32 `(n, classes)`."""
        return self._model.predict(x)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Split probabilities into rows, float32 `(classes,)`."""
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> Response:
        """Encode the answer for one image."""
        return make_response(self._model.class_names, output)


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(Path(sys.argv[1])),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
        healthcheck_path="/readyz",
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
