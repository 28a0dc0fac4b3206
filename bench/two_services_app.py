"""A peer: the layout of BentoML's documentation, an API service in front of a batchable model service.

Source: https://docs.bentoml.com/en/latest/get-started/adaptive-batching.html
"""

import bentoml
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from loupe.cores import available_cores
from loupe.engine import load_engine
from loupe.settings import load_settings
from loupe.store import find_model


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class BatchedModel:
    """Runs the model on what many requests bring."""

    def __init__(self) -> None:
        self._engine = load_engine(find_model(load_settings().default_tag), threads=max(1, available_cores() - 1))

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=10_000)  # type: ignore[untyped-decorator]
    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Class probabilities: uint8 `(n, 28, 28)` → float32 `(n, classes)`."""
        return self._engine.predict(images)


@bentoml.service(workers=1, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class TwoServices:
    """Classifies single PNGs."""

    model = bentoml.depends(BatchedModel)

    def __init__(self) -> None:
        self._class_names = find_model(load_settings().default_tag).card.class_names

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, image: Image, /) -> dict[str, object]:
        """Class of one image."""
        pixels = np.asarray(image.convert("L"))[None]  # (1, 28, 28)
        probabilities = (await self.model.to_async.predict(pixels))[0].tolist()
        index = int(np.argmax(probabilities))
        return {
            "label": self._class_names[index],
            "index": index,
            "confidence": probabilities[index],
            "probabilities": dict(zip(self._class_names, probabilities, strict=True)),
        }
