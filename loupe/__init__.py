"""What the training job, the service and the worker share; and the client, for everybody: `from loupe import Client`."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"  # an image has Loupe's code and no package of it that could be asked

if TYPE_CHECKING:
    from loupe.client import AsyncClient as AsyncClient
    from loupe.client import Client as Client
    from loupe.client import Prediction as Prediction
    from loupe.client import PredictionError as PredictionError
else:

    def __getattr__(name: str) -> object:
        """Imports the client when somebody asks for it: most who import `loupe` have no use for HTTP."""
        if name not in ("AsyncClient", "Client", "Prediction", "PredictionError"):
            raise AttributeError(f"module 'loupe' has no attribute '{name}'")
        from loupe import client

        return getattr(client, name)
