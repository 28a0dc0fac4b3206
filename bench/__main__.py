"""`python -m bench [service] [start] [bulk] [networks]`: measure what is named, or everything."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator

from bench import bulk, networks, service, start
from bench.report import Row, show
from loupe.cli import report_nothing
from loupe.errors import LoupeError
from loupe.settings import ENV_PREFIX
from loupe.store import StoredModel, find_model

BENCHMARKS: dict[str, Callable[[StoredModel], Iterator[Row]]] = {
    "service": service.measure,
    "start": start.measure,
    "bulk": bulk.measure,
    "networks": networks.measure,
}


def main() -> int:
    """Run the benchmarks; exit code 1 if there is no model, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure Loupe beside the barest peers.")
    parser.add_argument("benchmarks", nargs="*", metavar="|".join(BENCHMARKS), help="default: all")
    chosen: list[str] = parser.parse_args().benchmarks or list(BENCHMARKS)
    if unknown := set(chosen) - set(BENCHMARKS):
        parser.error(f"expected {', '.join(BENCHMARKS)}; received {', '.join(sorted(unknown))}")
    _use_default_settings()
    report_nothing()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave through every `finally`
    try:
        model = find_model()
        print(f"measuring with {model.tag}, the newest model in the store; this takes a few minutes")
        show([row for name in chosen for row in BENCHMARKS[name](model)])
    except LoupeError as error:
        print(error.message, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _use_default_settings() -> None:
    """Figures are comparable only with the settings that everybody has, and no job may reach a queue in use."""
    for name in [name for name in os.environ if name.startswith(ENV_PREFIX)]:
        del os.environ[name]


if __name__ == "__main__":
    sys.exit(main())
