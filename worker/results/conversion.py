"""The rows of a job that has ended, in another format."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic_core import to_json

from loupe.results import COLUMNS_FILE, SUCCESS, Format, find_result, merge_files, predictions_name
from worker.queue.records import Job, JobRequest
from worker.queue.results import find_rows
from worker.results import claims
from worker.results.outputs import read_summary
from worker.storage import AnyPath, local_copy, parse_path, publish, read_text, write_file


def find_files(request: JobRequest) -> tuple[Format, list[AnyPath]]:
    """Return the format and the files of a finished job's rows, however they were converted."""
    folder, wanted = parse_path(request.folder), request.options.format
    merged = claims.merged_file(folder, request)
    if merged.exists():
        return wanted, [merged]
    return find_result({file.name: file for file in _files(folder)}, wanted)


def find_job_files(job: Job) -> tuple[Format, list[AnyPath]]:
    """Return the format and the files of a job's rows; see `find_rows`."""
    folder = parse_path(job.folder)
    merged = claims.merged_file(folder, job.request)
    return find_rows(job, merged if merged.exists() else None, _files(folder))


def _files(folder: AnyPath) -> Iterable[AnyPath]:
    found: Iterable[AnyPath] = folder.glob("*")
    return found


def read_as(files: list[AnyPath], kind: Format, to: Format, folder: AnyPath) -> Iterator[bytes]:
    """Yield the rows of files as one file in another format, in chunks."""
    try:
        columns = json.loads(read_text(folder / COLUMNS_FILE))
    except FileNotFoundError:  # an older version wrote the result
        columns = None
    with ExitStack() as copies:
        paths: list[Path] = [copies.enter_context(local_copy(file)) for file in files]
        yield from merge_files(paths, kind, to, columns)


def convert(old: JobRequest, new: JobRequest) -> None:
    """Write the rows of a finished job in another format, or merged, and remove the old files."""
    folder, to = parse_path(new.folder), new.options.format
    kind, files = find_files(old)
    if new.options.single:
        targets = [(claims.merged_file(folder, new), files)]
    else:
        names = (predictions_name(number, len(files), to) for number in range(len(files)))
        targets = [(folder / name, [file]) for name, file in zip(names, files, strict=True)]
    for target, sources in targets:
        with publish(target) as path, path.open("wb") as written:
            written.writelines(read_as(sources, kind, to, folder))
    summary = read_summary(folder) | {"job": new.job_id}
    write_file(folder / claims.SUMMARY, to_json(summary, indent=2, inf_nan_mode="null") + b"\n")
    write_file(folder / SUCCESS, new.model_dump_json() + "\n")
    remove_other_rows(new)


def remove_other_rows(request: JobRequest) -> None:
    """Remove the rows in other formats that an interrupted conversion of a result has left."""
    folder, kind = parse_path(request.folder), request.options.format
    merged = claims.merged_file(folder, request)
    kept = merged if request.options.single else folder / claims.PART.format(kind)
    found: list[AnyPath] = [
        path
        for path in folder.iterdir()
        if any(fnmatchcase(path.name, pattern) for pattern in claims.ROWS)
    ]
    others = [path for path in found if not fnmatchcase(path.name, kept.name)]
    if len(others) < len(found) or merged.exists():
        for path in others:
            path.unlink(missing_ok=True)
