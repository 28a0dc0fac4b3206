"""The claim on an output folder: which job it belongs to, and whether that has ended.

The marker of an ended job stays beside the claim of a job that replaces its result, until that
job's plan removes the result. If the queue refuses the job, the result is as it was.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import get_args

from loupe.errors import InvalidOutput
from loupe.results import CANCELLED, COLUMNS_FILE, RUNNING, SUCCESS, Format, single_name
from worker.queue.records import JobRequest
from worker.remote_path import RemotePath
from worker.storage import AnyPath, parse_path, read_text, write_file

SUMMARY = "_summary.json"
SAMPLE, LEAST_CONFIDENT = "_sample.png", "_least-confident.png"
INDEX = "_plan-"  # how names of folders with a plan's index begin
PART = "predictions-?????-of-?????.{}"
ROWS = tuple(name for kind in get_args(Format) for name in (PART.format(kind), single_name(kind)))
PARTS = (*ROWS, "_errors-*.jsonl", "_part-*.json")
TEMPORARY = ".*" + 32 * "[0-9a-f]" + ".tmp"
RESULT = (*PARTS, SUMMARY, COLUMNS_FILE, SAMPLE, LEAST_CONFIDENT, f"{INDEX}*", TEMPORARY)


@dataclass(frozen=True)
class Claim:
    """The job that an output folder belongs to.

    Attributes:
        marker: `_RUNNING`, `_CANCELLED` or `_SUCCESS`.
    """

    request: JobRequest
    marker: str


def claim_folder(folder: AnyPath, request: JobRequest) -> None:
    """Create an output folder and claim it for a job.

    Raises:
        InvalidOutput: If it is not empty, cannot be created, or was claimed just now.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Another submission of the same job may be writing its claim right now.
        found = sorted(
            path.name for path in folder.iterdir() if not path.name.startswith(f".{RUNNING}.")
        )
        if found:
            names = ", ".join(found[:3])
            raise InvalidOutput(
                f"The output folder '{folder}' is not empty: {len(found)} entries ({names} …). "
                "Choose a new or empty folder."
            )
        _write_claim(folder, request)
    except FileExistsError as error:
        raise InvalidOutput(
            f"The output folder '{folder}' is a file, or another job has just claimed it. "
            "Choose another."
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise InvalidOutput(f"Cannot write to the output folder '{folder}': {reason}.") from error


def release_folder(folder: AnyPath, *, remove: bool = False) -> None:
    """Undo `claim_folder`, and remove the folder on request."""
    (folder / RUNNING).unlink(missing_ok=True)
    if remove and isinstance(folder, Path):
        with suppress(OSError):  # another submission of the same job may have claimed it
            folder.rmdir()


def read_claim(folder: AnyPath) -> Claim | None:
    """Return the job that a folder belongs to, if any."""
    for marker in (RUNNING, SUCCESS, CANCELLED):
        with suppress(OSError, ValueError, TypeError):
            text = read_text(folder / marker)
            return Claim(JobRequest.model_validate_json(text), marker)
    return None


def reclaim_folder(folder: AnyPath, request: JobRequest) -> None:
    """Claim a folder for its own job again; finished parts stay."""
    ended = None if (folder / RUNNING).exists() else read_claim(folder)
    with suppress(FileExistsError):
        _write_claim(folder, request)
    if ended == Claim(request, CANCELLED):
        (folder / CANCELLED).unlink(missing_ok=True)


def replace_claim(folder: AnyPath, old: Claim, request: JobRequest) -> None:
    """Claim a folder whose job has ended; the plan of the new job removes its result.

    Raises:
        InvalidOutput: If another job has just claimed it.
    """
    if old.marker == RUNNING:
        write_file(folder / CANCELLED, old.request.model_dump_json() + "\n")
        (folder / RUNNING).unlink(missing_ok=True)
    try:
        _write_claim(folder, request)
    except FileExistsError as error:
        raise InvalidOutput(f"Another job has just claimed '{folder}'. Choose another.") from error


def remove_replaced(folder: AnyPath, request: JobRequest) -> None:
    """Remove the result of the ended job that a job replaces, and merged rows; other files stay."""
    merged_file(folder, request).unlink(missing_ok=True)
    found: list[AnyPath] = list(folder.iterdir())
    markers = [path for path in found if path.name in (SUCCESS, CANCELLED)]
    for path in found if markers else ():
        if any(fnmatchcase(path.name, pattern) for pattern in RESULT):
            remove(path)
    for marker in markers:
        marker.unlink(missing_ok=True)


def merged_file(folder: AnyPath, request: JobRequest) -> AnyPath:
    """Return the path of the file into which all parts are merged on request."""
    if request.folder != request.output:
        return parse_path(request.output)
    return folder / single_name(request.options.format)


def _write_claim(folder: AnyPath, request: JobRequest) -> None:
    write_file(folder / RUNNING, request.model_dump_json() + "\n", new=True)


def remove(path: AnyPath) -> None:
    """Remove a file or folder if it exists."""
    if isinstance(path, RemotePath):
        for file in path.iterdir() if path.name.startswith(INDEX) else [path]:
            file.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
