"""The shared core of Loupe, and its Python client: `from loupe import Client`."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"  # container images hold the code without package metadata

if TYPE_CHECKING:
    from loupe.client.client import AsyncClient as AsyncClient
    from loupe.client.client import AsyncScoringRun as AsyncScoringRun
    from loupe.client.client import Client as Client
    from loupe.client.client import Prediction as Prediction
    from loupe.client.client import PredictionError as PredictionError
    from loupe.client.client import RecordError as RecordError
    from loupe.client.client import ScoringJob as ScoringJob
    from loupe.client.client import ScoringRun as ScoringRun
    from loupe.client.client import ServedModel as ServedModel
else:

    def __getattr__(name: str) -> object:
        """Import the client on first use; most programs that import `loupe` need no HTTP client."""
        client = None if name.startswith("_") else import_module("loupe.client.client")
        if client is None or name not in client.__all__:
            raise AttributeError(f"module 'loupe' has no attribute '{name}'")
        return getattr(client, name)
