"""A peer: FastAPI and `model.predict` at every request, as most tutorials show it."""

import io
import os
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import uvicorn
from fastapi import Body, FastAPI
from PIL import Image

from loupe.card import ModelCard
from loupe.store import KERAS_FILE

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def make_app(folder: Path) -> FastAPI:
    """An app whose `POST /predict` takes a PNG of 28x28 and answers as Loupe does.

    Args:
        folder: Where the model's files are.
    """
    import keras

    model = keras.models.load_model(folder / KERAS_FILE, compile=False)
    class_names = ModelCard.load(folder).class_names
    app = FastAPI()

    @app.post("/predict")  # type: ignore[untyped-decorator]
    def predict(image: Annotated[bytes, Body(media_type="image/png")]) -> dict[str, object]:
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("L"))[None]  # (1, 28, 28)
        probabilities = model.predict(pixels, verbose=0)[0].tolist()
        index = int(np.argmax(probabilities))
        return {
            "label": class_names[index],
            "index": index,
            "confidence": probabilities[index],
            "probabilities": dict(zip(class_names, probabilities, strict=True)),
        }

    @app.get("/readyz")  # type: ignore[untyped-decorator]
    def ready() -> None:
        pass

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(Path(sys.argv[1])), port=int(sys.argv[2]), log_level="warning", access_log=False)
