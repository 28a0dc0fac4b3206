"""The command `loupe doctor`: checks this installation."""

import os
import platform
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import typer

from loupe import __version__
from loupe.errors import LoupeError, NotWritable, ProgramFailed
from loupe.settings import Settings, load_settings
from loupe.terminal import console, notices, styled

DISTRIBUTION = "loupe-images"
MIN_FREE_BYTES = 2**30
PROBE_SECONDS = 2.0
NAME_WIDTH = 10
# A line of metadata, such as: redis>=7; extra == 'worker'
REQUIREMENT = re.compile(r"([\w.-]+)[^;]*;.*extra == ['\"](\w+)['\"]")


def doctor() -> None:
    """Check versions, packages, Redis, the model store, ports, disk and cores.

    The exit code is 1 if something is wrong. Missing extras are not: they only have fewer commands.
    """
    settings = load_settings()
    problems = 0
    for name, check in CHECKS.items():
        try:
            _print("ok", "green", name, check(settings))
        except (LoupeError, OSError) as error:
            problems += 1
            _print("wrong", "bold red", name, str(error))
    for extra, missing in _missing_packages():
        how = f"missing: {', '.join(missing)}. Install: pip install -e '.[{extra}]'"
        _print(
            *(("none", "yellow", extra, how) if missing else ("ok", "green", extra, "installed"))
        )
    if problems:
        notices.print(f"{problems} wrong", style="bold red")
        raise typer.Exit(1)


def _print(mark: str, style: str, name: str, text: str) -> None:
    console.print(styled((f"{mark:<7}", style), f"{name:<{NAME_WIDTH}}{text}"))


def _versions(settings: Settings) -> str:
    return f"Loupe {__version__}, Python {platform.python_version()}, {platform.platform()}"


def _cores(settings: Settings) -> str:
    from loupe.runtime.cores import available_cores

    cores = available_cores()
    used = f"; LOUPE_THREADS={settings.threads}" if settings.threads else ""
    return f"{cores} of {os.cpu_count()}{used}"


def _data_folder(settings: Settings) -> str:
    return _check_folder(settings.home, "LOUPE_DATA_DIR")


def _store(settings: Settings) -> str:
    from loupe.models.store import list_models, models_folder, verify

    models = list_models()
    for model in models:
        verify(model)
    folder = _check_folder(models_folder(), "BENTOML_HOME")
    if not models:
        return f"{folder}; no models. Train one: loupe train fashion-mnist"
    return f"{folder}; models: {len(models):,}, all files as they were saved"


def _redis(settings: Settings) -> str:
    try:
        from loupe.runtime.redis_risks import find_risks
        from loupe.runtime.redis_server import HASTY, open_redis
    except ModuleNotFoundError as error:
        return f"no package '{error.name}', so there are no jobs"
    with open_redis(settings, HASTY) as redis:
        info = redis.info("server")
        risks = [f" Warning: {risk}" for risk in find_risks(redis)]
    version = info.get("valkey_version") or info["redis_version"]
    where = "at LOUPE_REDIS_URL" if settings.redis_url else "embedded"
    return f"version {version}, {where}" + (f".{''.join(risks)}" if risks else "")


def _port(settings: Settings) -> str:
    from loupe.runtime.ports import listen, url_of

    url = url_of(settings.host, settings.port)
    try:
        for each in listen(settings.host, settings.port):
            each.close()
    except ProgramFailed as error:
        if error.code == "address_in_use" and _is_ready(url):
            return f"a service is ready at {url}"
        raise
    return f"{settings.port} at {settings.host} is free"


def _is_ready(url: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{url}/readyz", timeout=PROBE_SECONDS) as reply:  # noqa: S310 - http
        return bool(reply.status == 200)
    return False


def _check_folder(folder: Path, setting: str) -> str:
    """Return a folder and its free space, or raise `NotWritable`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        raise NotWritable(
            f"'{folder}' cannot be written ({error.strerror}). Choose another folder: {setting}."
        ) from error
    if free < MIN_FREE_BYTES:
        raise NotWritable(f"'{folder}' has only {free / 1e9:.1f} GB of free disk space.")
    return f"{folder}, {free / 1e9:,.1f} GB free"


def _missing_packages() -> Iterator[tuple[str, list[str]]]:
    """Yield each extra and its packages that are not installed; containers have no metadata."""
    with suppress(metadata.PackageNotFoundError):
        extras: dict[str, list[str]] = {}
        for line in metadata.requires(DISTRIBUTION) or ():
            if (found := REQUIREMENT.match(line)) and found[2] != "all":
                extras.setdefault(found[2], []).append(found[1])
        for extra, packages in extras.items():
            yield extra, [package for package in packages if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


CHECKS: dict[str, Callable[[Settings], str]] = {
    "versions": _versions,
    "cores": _cores,
    "data": _data_folder,
    "models": _store,
    "Redis": _redis,
    "port": _port,
}
