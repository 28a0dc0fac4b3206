"""Start the service: `bentoml serve` with Loupe's settings, in this process."""

import os
import tempfile
from pathlib import Path

from loupe.settings import Settings
from loupe.store import find_model, verify

SERVICE = "service.app:Loupe"


def serve(settings: Settings) -> None:
    """Serve until a signal stops it.

    Raises:
        ModelNotFound: If there is no model to serve.
        ModelCorrupted: If its files are not those that were saved.
    """
    verify(find_model(settings.model))  # here the error is one line; in the server's own process it would be a traceback
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    from bentoml_cli.serve import build_serve_command

    # BentoML empties its metrics folder at every start; a second server must not lose the figures of the first.
    with tempfile.TemporaryDirectory(prefix="loupe-metrics-") as metrics:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        command = ["serve", SERVICE, "--host", settings.host, "--port", str(settings.port)]
        command += ["--working-dir", str(Path(__file__).parent.parent)]
        command += ["--timeout-graceful-shutdown", str(settings.shutdown_timeout_seconds)]
        build_serve_command().main(command, prog_name="bentoml", standalone_mode=False)
