"""`loupe jobs`: what became of the bulk-scoring jobs, and what is to become of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.errors import JobFailed
from loupe.settings import load_settings
from loupe.terminal import console, notices, print_sections

if TYPE_CHECKING:
    from worker.queue.jobs import Job, Jobs, Submissions

app = typer.Typer(help="List, show, follow, cancel and retry the bulk-scoring jobs.")
JobId = Annotated[str, typer.Argument(metavar="ID", help="As loupe score and loupe jobs tell it.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
SHOWN_ERRORS = 20  # on a terminal; --json shows all


@app.callback(invoke_without_command=True)
def jobs(context: typer.Context) -> None:
    """List, show, follow, cancel and retry the bulk-scoring jobs. Alone it lists them."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the jobs, newest first."""
    with open_jobs() as known:
        found = known.all()
    if as_json:
        console.print_json(json.dumps([job.to_json() for job in found]))
        return
    for job in found:
        console.print(f"[bold]{job.id}[/]  {_progress(job)}")
        about = f"{job.model} → {job.output}" + (f"\n  {job.error}" if job.error else "")
        console.print(f"  {about}", markup=False, highlight=False, soft_wrap=True)


@app.command()
def show(job_id: JobId, as_json: Json = False) -> None:
    """Show all that is known about a job."""
    with open_jobs() as known:
        job = known.get(job_id)
        letters = known.dead_letters(job_id)
    if as_json:
        console.print_json(
            json.dumps({**job.to_json(), "dead_letters": [asdict(letter) for letter in letters]})
        )
        return
    console.print(f"[bold]{job.id}[/]  {_progress(job)}")
    times = {name: _local(getattr(job, name)) for name in ("created", "started", "finished")}
    print_sections({"": {"model": job.model, "source": job.source, "output": job.output, **times}})
    for letter in letters:
        console.print(
            f"[bold]{letter.step}[/] failed for good at {_local(letter.time)}", highlight=False
        )
        console.print(f"  {letter.error}", markup=False, highlight=False, soft_wrap=True)
    if job.state == "failed":
        console.print(
            f"What is finished stays. Try the rest again: loupe jobs retry {job.id}",
            highlight=False,
        )


@app.command()
def follow(job_id: JobId) -> None:
    """Show a job's progress until it has ended."""
    with open_jobs() as known:
        follow_job(known, known.get(job_id))


@app.command()
def cancel(job_id: JobId) -> None:
    """Score no more of a job. The parts it has finished stay, and its summary counts them."""
    from worker.queue.submission import cancel as cancel_job

    with open_jobs() as known:
        job = cancel_job(known, job_id)
        if job.state == "cancelling":
            warn_without_worker(known)
        console.print(
            f"job [bold]{job.id}[/] is {job.state}; {job.done:,} scored → {job.output}",
            highlight=False,
        )


@app.command()
def retry(job_id: JobId) -> None:
    """Let a job that has failed, or was cancelled, go on where it ended."""
    from worker.queue.submission import retry as retry_job

    with open_jobs() as known:
        job = retry_job(known, job_id)
        console.print(f"job [bold]{job.id}[/] is {job.state}", highlight=False)
        warn_without_worker(known)


@app.command()
def errors(job_id: JobId, as_json: Json = False) -> None:
    """Show which images of a job could not be read, and why."""
    with open_jobs() as known:
        job = known.get(job_id)
    from worker.results.outputs import read_errors
    from worker.storage import parse_path

    found = read_errors(parse_path(job.output))
    if as_json:
        for error in found:
            typer.echo(json.dumps(error, ensure_ascii=False))
        return
    for number, error in enumerate(found):
        if number == SHOWN_ERRORS:
            console.print("… all of them: --json", highlight=False)
            return
        console.print(f"[bold]{error['code']}[/]", end="  ")
        console.print(
            f"{error['id']}\n  {error['error']}", markup=False, highlight=False, soft_wrap=True
        )


def warn_without_worker(jobs: "Jobs") -> None:
    """Say so if nobody does what is queued."""
    if not jobs.workers():
        notices.print(
            "[yellow]No worker is running; the job waits for one. Start it: loupe worker[/]"
        )


def follow_job(jobs: "Submissions", job: "Job") -> "Job":
    """Show a job's progress until it has ended.

    Raises:
        JobFailed: If it failed.
    """
    from worker.queue.progress import follow
    from worker.results.outputs import SUMMARY, read_summary
    from worker.results.summary import print_summary
    from worker.storage import parse_path

    try:
        ended = job if job.state == "done" else follow(jobs, job.id, console)
    except KeyboardInterrupt:
        console.print(f"\nJob {job.id} goes on without you. See it: loupe jobs")
        raise typer.Exit from None
    if ended.state == "failed":
        raise JobFailed(f"Job {ended.id} failed: {ended.error}")
    output = parse_path(ended.output)
    summary = (
        read_summary(output) if (output / SUMMARY).exists() else None
    )  # it may be on another machine
    rate = 0.0 if summary is None else summary["images_per_second"]
    cancelled = "cancelled: " if ended.state == "cancelled" else ""
    figures = f"{ended.done:,} scored, errors: {ended.failed:,}, {rate:,.0f} images/s"
    console.print(f"{cancelled}{figures} → {ended.output}")
    if summary is not None:
        print_summary(summary)
    return ended


@contextmanager
def open_jobs() -> "Iterator[Jobs]":
    """The jobs in the Redis that the settings name."""
    from loupe.runtime.redis_server import open_redis
    from worker.queue.jobs import Jobs

    with open_redis(load_settings()) as redis:
        yield Jobs(redis)


def _progress(job: "Job") -> str:
    total = "?" if job.total is None else f"{job.total:,}"
    eta = "" if job.eta_seconds is None else f", {job.eta_seconds:.0f} s to go"
    return f"{job.state:<9}  {job.done:,} of {total} scored, errors: {job.failed:,}{eta}"


def _local(moment: float | None) -> str:
    return (
        "—"
        if moment is None
        else datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    )
