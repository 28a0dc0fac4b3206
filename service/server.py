"""Start the service: the process that `bentoml serve` would start, without the supervisor that `bentoml serve` puts before it.

That supervisor has one child to watch, needs as long to start as the service itself, and takes 100 MB. Whoever runs Loupe (compose,
systemd, `loupe up`) watches processes already.
"""

import logging
import os
import signal
from pathlib import Path
from typing import NoReturn

from loupe.ports import BACKLOG, listen
from loupe.settings import Settings
from loupe.store import find_model, verify
from service.keys import read_keys

SERVICE = "service.app:Loupe"
LOOPBACK = ("127.0.0.1", "::1", "localhost")

logger = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until a signal stops it, and finish the requests in hand.

    Raises:
        AddressInUse: If something listens there already.
        GrpcUnavailable: If a port for gRPC is set, and gRPC is not installed.
        ModelNotFound: If there is no model to serve.
        InvalidSetting: If the API keys are none.
        ModelCorrupted: If its files are not those that were saved.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    if read_keys(settings) is None and settings.host not in LOOPBACK:
        logger.warning(
            "listening on %s without API keys: everybody who reaches it may call (LOUPE_API_KEYS)", settings.host
        )
    verify(find_model(settings.model))  # an error here is one line, and in the server's start a traceback
    listening = listen(settings.host, settings.port)
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # one process, whose numbers need no files
    if settings.grpc_port is not None:
        import service.open_inference_grpc  # noqa: F401 - an error here is one line, as above

        listen(settings.host, settings.grpc_port, "LOUPE_GRPC_PORT").close()
    from _bentoml_impl.worker.service import main

    os.chdir(Path(__file__).parent.parent)  # where BentoML looks for the service
    command = [SERVICE, "--service-name", "loupe", "--fd", str(listening.detach()), "--backlog", str(BACKLOG)]
    command += ["--worker-id", "1", "--timeout-graceful-shutdown", str(settings.shutdown_timeout_seconds)]
    main(command, standalone_mode=False)


def _leave(*_: object) -> NoReturn:
    """Exit code 0 for a stop that was asked for.

    Called when a signal comes before the server has its own handlers, and again when the server has finished and hands the signal on.
    """
    raise SystemExit(0)
