"""A peer that calls `model.predict` for each request in FastAPI, as many tutorials do.

Run it with `python -m bench.peers.keras_app MODEL_FOLDER PORT`.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import uvicorn
from fastapi import Body, FastAPI
from starlette.responses import Response

from bench.peers.bare_app import decode, make_response, read_class_names

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def make_app(folder: Path) -> FastAPI:
    """Create an app whose `POST /predict` takes a PNG of 28 × 28 pixels."""
    import keras

    model = keras.models.load_model(folder / "model.keras", compile=False)
    class_names = read_class_names(folder)
    app = FastAPI()

    @app.post("/predict")  # type: ignore[untyped-decorator]
    def predict(image: Annotated[bytes, Body(media_type="image/png")]) -> Response:
        return make_response(class_names, model.predict(decode(image)[None], verbose=0)[0])

    @app.get("/readyz")  # type: ignore[untyped-decorator]
    def ready() -> None:
        pass

    return app


if __name__ == "__main__":
    uvicorn.run(
        make_app(Path(sys.argv[1])), port=int(sys.argv[2]), log_level="warning", access_log=False
    )
