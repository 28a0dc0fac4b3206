"""The claim on an output folder: which job it belongs to, and whether that has ended."""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loupe.errors import InvalidOutput
from loupe.results import COLUMNS_FILE, single_name
from worker.queue.records import JobRequest
from worker.remote_path import RemotePath
from worker.storage import AnyPath, parse_path, read_text, write_file

CLAIM = "_RUNNING"  # has the request of a job in progress; the next two, of one that ended
SUCCESS = "_SUCCESS"
CANCELLED = "_CANCELLED"
SUMMARY = "_summary.json"
SAMPLE, LEAST_CONFIDENT = "_sample.png", "_least-confident.png"
INDEX = "_plan-"  # how names of folders with a plan's index begin
PARTS = ("predictions[-.]*", "_errors-*.jsonl", "_part-*.json")


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
            path.name for path in folder.iterdir() if not path.name.startswith(f".{CLAIM}.")
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
    (folder / CLAIM).unlink(missing_ok=True)
    if remove and isinstance(folder, Path):
        with suppress(OSError):  # another submission of the same job may have claimed it
            folder.rmdir()


def read_claim(folder: AnyPath) -> Claim | None:
    """Return the job that a folder belongs to, if any."""
    for marker in (CLAIM, SUCCESS, CANCELLED):
        with suppress(OSError, ValueError, TypeError):
            text = read_text(folder / marker)
            return Claim(JobRequest.model_validate_json(text), marker)
    return None


def reclaim_folder(folder: AnyPath, request: JobRequest) -> None:
    """Claim a folder for its own job again; finished parts stay."""
    with suppress(FileExistsError):
        _write_claim(folder, request)
    if (folder / CANCELLED).exists():  # then not all parts were merged
        merged_file(folder, request).unlink(missing_ok=True)
    for marker in (SUCCESS, CANCELLED):
        (folder / marker).unlink(missing_ok=True)


def clear_folder(folder: AnyPath, request: JobRequest) -> None:
    """Remove all files of a job; other files stay."""
    merged_file(folder, request).unlink(missing_ok=True)
    names = (
        SUMMARY,
        COLUMNS_FILE,
        SAMPLE,
        LEAST_CONFIDENT,
        ".*.tmp",
        f"{INDEX}*",
        SUCCESS,
        CANCELLED,
        CLAIM,
    )
    for pattern in (*names, *PARTS):
        for path in folder.glob(pattern):
            remove(path)


def merged_file(folder: AnyPath, request: JobRequest) -> AnyPath:
    """Return the path of the file into which all parts are merged on request."""
    if request.folder != request.output:
        return parse_path(request.output)
    return folder / single_name(request.options.format)


def _write_claim(folder: AnyPath, request: JobRequest) -> None:
    write_file(folder / CLAIM, request.model_dump_json() + "\n", new=True)


def remove(path: AnyPath) -> None:
    """Remove a file or folder if it exists."""
    if isinstance(path, RemotePath):
        for file in path.iterdir() if path.name.startswith(INDEX) else [path]:
            file.unlink(missing_ok=True)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
