"""The commands of the worker: `loupe worker` and `loupe score`."""

import os
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from loupe.jobs import Priority, ScoringOptions, check_options
from loupe.results import Format
from loupe.runtime.processes import stop_on_signals
from loupe.settings import load_settings
from loupe.terminal import console, log_to_stderr
from worker import jobs_cli

if TYPE_CHECKING:
    from worker.queue.jobs import Job


def worker(
    burst: Annotated[bool, typer.Option("--burst", help="Exit when the queue is empty.")] = False,
    processes: Annotated[
        int,
        typer.Option(min=1, help="Processes that share the cores, each with a model of its own."),
    ] = 1,
) -> None:
    """Score the jobs in the queue."""
    settings = load_settings()
    log_to_stderr()
    stopping = threading.Event()
    if processes > 1:
        from worker.supervisor import supervise

        with stop_on_signals(stopping):
            supervise(settings, processes, stopping, burst=burst)
        return
    from worker.process import work

    with stop_on_signals(stopping):
        ended = work(settings, stopping, burst=burst)
    if not ended:
        os._exit(0)  # now, and not when its threads have finished what nobody needs any more


def score(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a pattern, an archive, a table or an array of images, by path or URL; docs/scoring.md has the list."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="New or empty folder for the results, by path or URL, or that of the same job before."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to score with: NAME, NAME:VERSION or NAME:production. Default: LOUPE_MODEL."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for the job's end.")
    ] = False,
    format_: Annotated[
        Format,
        typer.Option("--format", help="Of the files with predictions."),
    ] = "parquet",
    top_k: Annotated[
        int, typer.Option(min=1, help="Labels in a row, the most probable first.")
    ] = 1,
    probabilities: Annotated[
        bool, typer.Option(help="Write the probabilities of all classes.")
    ] = True,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Confidence from which on a label is given. Default: always."
        ),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="One file in the end, instead of parts.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Make a result anew that is there already.")
    ] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Instead of SOURCE and --out: go on with the job of a folder, even if Redis has lost it.",
        ),
    ] = None,
    priority: Annotated[Priority, typer.Option(help="Jobs of a higher one go first.")] = "normal",
    local: Annotated[
        bool, typer.Option("--local", help="All of it in this process, without Redis and workers.")
    ] = False,
    max_in_flight: Annotated[
        int | None, typer.Option(min=1, help="Most workers at it at a time. Default: all of them.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="True labels, to tell accuracy: 'folder', that an image lies in, or 'column:NAME' of a table or manifest.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,…", help="Columns of a table or manifest that the rows repeat."
        ),
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Column of a table or manifest with the ids. Default: id.",
        ),
    ] = None,
) -> None:
    """Score a whole set of images through the queue. The same command again is the same job."""
    if (source is None) != (out is None) or (source is None) == (resume is None):
        raise typer.BadParameter("needs SOURCE and --out, or --resume alone")
    settings = load_settings()
    from worker.queue import submission
    from worker.queue.jobs import Submissions

    options = check_options(
        ScoringOptions,
        format=format_,
        top_k=top_k,
        probabilities=probabilities,
        threshold=threshold,
        single=single,
        labels=labels,
        keep=tuple(name.strip() for name in keep.split(",")) if keep else (),
        id=id_,
    )

    def submitted(queue: Submissions) -> "Job":
        if source is None or out is None:
            job = submission.resume(queue, resume or "")
        else:
            job = submission.submit(
                queue,
                source,
                out,
                model or settings.default_tag,
                settings.shard_images,
                options,
                again=again,
                priority=priority,
                most_in_flight=max_in_flight,
                https_sources=settings.https_sources,
            )
        does = "has scored" if job.state == "done" else "scores"
        console.print(
            f"job [bold]{job.id}[/] {does} {job.source} with {job.model}", highlight=False
        )
        return job

    if local:
        from worker.queue.local import working

        with working(settings) as here, stop_on_signals(here.interrupted):
            jobs_cli.follow_job(here, submitted(here))
        return
    with jobs_cli.open_jobs() as queue:
        job = submitted(queue)
        jobs_cli.warn_without_worker(queue)
        if not detach:
            jobs_cli.follow_job(queue, job)
