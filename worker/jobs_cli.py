"""The command `loupe jobs`: list, show, follow, cancel and retry jobs, and read their results."""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.errors import Interrupted, InvalidUsage, JobFailed, NotFound
from loupe.images.selection import describe
from loupe.jobs import ENDED, file_format
from loupe.results import Format
from loupe.settings import load_settings
from loupe.terminal import (
    Column,
    console,
    notices,
    print_sections,
    print_table,
    progress_bar,
    styled,
)
from loupe.text import duration, one_line

if TYPE_CHECKING:
    from rich.console import Console

    from worker.queue.jobs import Jobs
    from worker.queue.local import LocalQueue
    from worker.queue.records import Job
    from worker.storage import AnyPath

app = typer.Typer(help="List, show, follow, cancel and retry bulk-scoring jobs.")
JobId = Annotated[
    str,
    typer.Argument(metavar="ID", help="Id of the job, as `loupe score` and `loupe jobs` print it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MAX_SHOWN_ERRORS = 20  # on a terminal; --json shows all
POLL_SECONDS = 0.1


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context) -> None:
    """List, show, follow, cancel and retry bulk-scoring jobs. Lists them by default."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the jobs, newest first."""
    with open_jobs() as known:
        found = list(known.all())
    if as_json:
        console.print_json(json.dumps([job.to_json() for job in found]))
        return
    if not found:
        console.print("There are no jobs. Submit one: loupe score FOLDER --out RESULTS")
        return
    columns = [
        Column("job", [job.id for job in found]),
        Column("state", [job.state for job in found]),
        Column("scored", [_scored(job) for job in found], justify="right"),
        Column("errors", [f"{job.failed:,}" for job in found], justify="right"),
        Column("skipped", [f"{job.skipped:,}" for job in found], rank=5, justify="right"),
        Column("created", [_local(job.created) for job in found], rank=1),
        Column("took", [_duration(job) for job in found], rank=2, justify="right"),
        Column("model", [job.model for job in found], rank=3),
        Column("output", [job.output for job in found], rank=4),
    ]
    print_table(columns, "See: loupe jobs show JOB")
    for job in found:
        if job.error:
            notices.print(f"{job.id}: {job.error}", style="yellow")


@app.command()
def show(job_id: JobId, as_json: Json = False) -> None:
    """Show the details of a job."""
    with open_jobs() as known:
        job = known.get(job_id)
        letters = known.dead_letters(job_id)
    if as_json:
        console.print_json(
            json.dumps({**job.to_json(), "dead_letters": [asdict(letter) for letter in letters]})
        )
        return
    console.print(styled((job.id, "bold"), f"  {_progress(job)}"))
    times = {name: _local(getattr(job, name)) for name in ("created", "started", "finished")}
    times["took"] = _duration(job)
    facts = {"model": job.model, "source": job.source, "output": job.output, **times}
    if job.skipped:
        facts["skipped"] = describe(job.skipped_files)
    print_sections({"": facts})
    for letter in letters:
        console.print(styled((letter.step, "bold"), f" failed for good at {_local(letter.time)}"))
        console.print(f"  {letter.error}")
    if job.state == "failed":
        if job.done:
            console.print(f"The rows of its finished parts: loupe jobs results {job.id}")
        console.print(f"Finished parts stay. Score the rest: loupe jobs retry {job.id}")


@app.command()
def follow(job_id: JobId) -> None:
    """Show the progress of a job until it has ended."""
    with open_jobs() as known:
        follow_job(known, known.get(job_id))


@app.command()
def cancel(job_id: JobId) -> None:
    """Cancel a job. Its finished parts stay, and its summary counts them."""
    from worker.queue.submission import cancel as cancel_job

    with open_jobs() as known:
        job = cancel_job(known, job_id)
        if job.state == "cancelling":
            warn_without_worker(known)
        state = f" is {job.state}; {job.done:,} scored → {job.output}"
        console.print(styled("job ", (job.id, "bold"), state))


@app.command()
def retry(job_id: JobId) -> None:
    """Resume a failed or cancelled job."""
    from worker.queue.submission import retry as retry_job

    with open_jobs() as known:
        job = retry_job(known, job_id)
        console.print(styled("job ", (job.id, "bold"), f" is {job.state}"))
        warn_without_worker(known)


@app.command()
def errors(job_id: JobId, as_json: Json = False) -> None:
    """List the images of a job that could not be read, with the reasons."""
    with open_jobs() as known:
        job = known.get(job_id)
    from worker.queue.results import find_errors
    from worker.results.outputs import read_lines
    from worker.storage import parse_path

    files: Iterable[AnyPath] = parse_path(job.folder).glob("_*")
    found = (error for file in find_errors(job, files) for error in read_lines(file))
    if as_json:
        for error in found:
            typer.echo(one_line(json.dumps(error, ensure_ascii=False)))
        return
    for number, error in enumerate(found):
        if number == MAX_SHOWN_ERRORS:
            console.print("… List all errors: --json")
            return
        console.print(styled((str(error["code"]), "bold"), f"  {error['id']}"))
        console.print(f"  {error['error']}")


@app.command()
def results(
    job_id: JobId,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Format of the rows.", show_default="as FILE ends, or the job's"
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File to write; a path or URL.", show_default="the terminal"
        ),
    ] = None,
) -> None:
    """Write the rows of a job as one file of any format; if it failed, those that it finished."""
    from worker.results.conversion import find_job_files, read_as
    from worker.storage import parse_path, publish

    with open_jobs() as known:
        job = known.get(job_id)
    stored, files = find_job_files(job)
    if job.state != "done":
        notices.print(
            f"The state of the job is '{job.state}': these are the rows of its finished parts.",
            style="yellow",
        )
    to = format_ or (file_format(out) if out else None) or stored
    content = read_as(files, stored, to, parse_path(job.folder))
    if out is not None:
        with publish(parse_path(out)) as path, path.open("wb") as file:
            file.writelines(content)
    elif to == "parquet" and sys.stdout.isatty():
        raise InvalidUsage("Parquet is not for a terminal. Give --out FILE, or another --format.")
    else:
        sys.stdout.buffer.writelines(content)


def warn_without_worker(jobs: "Jobs") -> None:
    """Print a notice if no worker is running."""
    if not jobs.workers():
        notices.print(
            "No worker is running. Start one: loupe worker. To score in one process: "
            "loupe score --local",
            style="yellow",
        )


def follow_job(jobs: "Jobs", job: "Job") -> None:
    """Show the progress of a job until it has ended, then its result.

    Raises:
        Interrupted: If it was cancelled.
        JobFailed: If it failed.
    """
    try:
        ended = job if job.state == "done" else watch(jobs, job.id, console)
    except KeyboardInterrupt:
        console.print()
        console.print(f"Job {job.id} keeps running. Follow it: loupe jobs follow {job.id}")
        raise typer.Exit from None
    show_ended(ended, in_queue=True)


def watch(jobs: "Jobs | LocalQueue", job_id: str, console: "Console") -> "Job":
    """Draw a progress bar until the job has ended, and return the ended job."""
    with progress_bar("rate", "details", console=console) as progress:
        task = progress.add_task("queued", total=None, rate="", details="")
        while True:
            job = jobs.get(job_id)
            handled = job.done + job.failed
            seconds = time.time() - job.started if job.started else 0.0
            progress.update(
                task,
                description=f"{job.state:>9}",
                total=job.total,
                completed=handled + job.skipped,
                rate=f"{handled / seconds:,.0f}/s" if seconds and handled else "",
                details=f"{_unscored(job)}, workers: {len(jobs.workers())}",
            )
            if job.state in ENDED:
                return job
            time.sleep(POLL_SECONDS)


def show_ended(job: "Job", *, in_queue: bool = False) -> None:
    """Print the result of a job, and its summary if the folder is on this machine.

    Args:
        job: The job.
        in_queue: Whether `loupe jobs` knows it.

    Raises:
        Interrupted: If it was cancelled, so that scripts do not take its rows for all.
        JobFailed: If it failed.
    """
    from worker.queue.results import check_owner
    from worker.results.claims import SUMMARY
    from worker.results.outputs import read_summary
    from worker.results.summary import print_summary
    from worker.storage import parse_path

    if job.state == "failed":
        rows = f"loupe jobs results {job.id}" if in_queue else job.folder
        raise JobFailed(
            f"Job {job.id} failed: {job.error}"
            + (f" Its finished rows: {rows}" if job.done else "")
        )
    output, summary = parse_path(job.folder), None
    with suppress(NotFound):  # another job has overwritten it
        check_owner(job, output.glob("_*"))
        summary = read_summary(output) if (output / SUMMARY).exists() else None
    rate = 0.0 if summary is None else summary["images_per_second"]
    counts = f"{job.done:,} scored, {_unscored(job)}, {rate:,.0f} images/s"
    console.print(f"{counts} → {job.output}")
    if summary is not None:
        print_summary(summary)
    if job.state == "cancelled":
        command = f"loupe jobs retry {job.id}" if in_queue else "the same command"
        raise Interrupted(
            f"Job {job.id} was cancelled after {job.done:,} images. Continue it: {command}",
            code="interrupted",
        )


@contextmanager
def open_jobs() -> "Iterator[Jobs]":
    """Open the queue in the Redis of the settings."""
    from loupe.runtime.redis_server import open_redis
    from worker.queue.jobs import Jobs

    settings = load_settings()
    with open_redis(settings) as redis:
        yield Jobs(redis, settings.keep_jobs_seconds)


def _progress(job: "Job") -> str:
    eta = "" if job.eta_seconds is None else f", {duration(job.eta_seconds)} left"
    return f"{job.state:<9}  {_scored(job)} scored, {_unscored(job)}{eta}"


def _scored(job: "Job") -> str:
    return f"{job.done:,} of {'?' if job.total is None else f'{job.total:,}'}"


def _duration(job: "Job") -> str:
    """Return how long a job has run, or what it still needs."""
    if job.eta_seconds is not None:
        return f"{duration(job.eta_seconds)} left"
    if job.started is None:
        return "–"
    return duration((job.finished or time.time()) - job.started)


def _unscored(job: "Job") -> str:
    return f"errors: {job.failed:,}" + (f", skipped: {job.skipped:,}" if job.skipped else "")


def _local(moment: float | None) -> str:
    return "–" if moment is None else f"{datetime.fromtimestamp(moment):%Y-%m-%d %H:%M:%S}"
