"""The shared core of Loupe, and what scripts use: `loupe.load`, `loupe.Client`."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"  # container images hold the code without package metadata

if TYPE_CHECKING:
    from loupe.client.async_client import AsyncClient as AsyncClient
    from loupe.client.async_client import AsyncScoringRun as AsyncScoringRun
    from loupe.client.client import Client as Client
    from loupe.client.client import ScoringRun as ScoringRun
    from loupe.client.jobs import RecordError as RecordError
    from loupe.client.local import LocalModel as LocalModel
    from loupe.client.local import load as load
    from loupe.client.predictions import Prediction as Prediction
    from loupe.client.predictions import PredictionError as PredictionError
    from loupe.client.predictions import ServedModel as ServedModel
    from loupe.jobs import ScoringJob as ScoringJob
else:
    _MODULES = {
        "AsyncClient": "loupe.client.async_client",
        "AsyncScoringRun": "loupe.client.async_client",
        "Client": "loupe.client.client",
        "LocalModel": "loupe.client.local",
        "Prediction": "loupe.client.predictions",
        "PredictionError": "loupe.client.predictions",
        "RecordError": "loupe.client.jobs",
        "ScoringJob": "loupe.jobs",
        "ScoringRun": "loupe.client.client",
        "ServedModel": "loupe.client.predictions",
        "load": "loupe.client.local",
    }

    def __getattr__(name: str) -> object:
        """Import on first use; most programs need neither the client nor local models."""
        if name not in _MODULES:
            raise AttributeError(f"module 'loupe' has no attribute '{name}'")
        try:
            return getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            error.msg += ". Install the extra 'client': docs/install.md"
            raise
