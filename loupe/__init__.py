"""What the training job, the service and the worker share; and the client, for everybody: `from loupe import Client`."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"  # an image has Loupe's code and no package of it that could be asked

if TYPE_CHECKING:
    from loupe.client.client import AsyncClient as AsyncClient
    from loupe.client.client import AsyncScoringRun as AsyncScoringRun
    from loupe.client.client import Client as Client
    from loupe.client.client import Prediction as Prediction
    from loupe.client.client import PredictionError as PredictionError
    from loupe.client.client import RecordError as RecordError
    from loupe.client.client import ScoringJob as ScoringJob
    from loupe.client.client import ScoringRun as ScoringRun
else:
    OF_THE_CLIENT = {
        *("AsyncClient", "AsyncScoringRun", "Client", "Prediction", "PredictionError"),
        *("RecordError", "ScoringJob", "ScoringRun"),
    }

    def __getattr__(name: str) -> object:
        """Imports the client when somebody asks for it: most who import `loupe` have no use for HTTP."""
        if name not in OF_THE_CLIENT:
            raise AttributeError(f"module 'loupe' has no attribute '{name}'")
        from loupe.client import client

        return getattr(client, name)
