"""The commands of the worker: `loupe worker` and `loupe score`."""

import os
import sys
import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loupe.errors import InvalidUsage
from loupe.jobs import (
    ERROR_LIMIT,
    Priority,
    ScoringOptions,
    file_format,
    read_flags,
    score_command,
)
from loupe.logs import log_to_stderr
from loupe.results import Format
from loupe.runtime.processes import stop_on_signals
from loupe.settings import Settings, load_settings
from loupe.terminal import console, styled
from worker import jobs_cli

if TYPE_CHECKING:
    from worker.queue.submission import Prepared
    from worker.scoring.slices import Slice

ClusterName = Literal["ray", "spark"]
Mode = Literal["local", "finish", "ray", "spark"]


def worker(
    burst: Annotated[bool, typer.Option("--burst", help="Exit when the queue is empty.")] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Worker processes, which share the cores.")
    ] = 1,
) -> None:
    """Score the jobs in the queue."""
    settings = load_settings()
    log_to_stderr(settings.log_format)
    stopping = threading.Event()
    if processes > 1:
        from worker.supervisor import supervise

        with stop_on_signals(stopping):
            supervise(settings, processes, stopping, burst=burst)
        return
    from worker.process import work

    with stop_on_signals(stopping):
        ended = work(settings, stopping, burst=burst)
    if not ended and not stopping.is_set():
        # A step does not notice that its job was cancelled. Only a new process is rid of it.
        command = [sys.executable, "-m", "loupe", *sys.argv[1:]]
        os.execv(sys.executable, command)  # noqa: S606 - our own command
    if not ended:
        os._exit(0)  # without waiting for the threads


def score(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, pattern, archive, table or array of images; a path or URL. "
            "docs/scoring-reference.md lists the formats.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="New or empty folder for the results, or that of the same job; a path or URL. "
            "One file if it ends in .parquet, .csv or .jsonl."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model to score with: NAME, NAME:VERSION or NAME:production.",
            show_default="LOUPE_MODEL, else the name promoted first",
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job.")] = False,
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format", help="File format of the results.", show_default="as --out ends, or parquet"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Labels per row, the most probable first.")] = 1,
    probabilities: Annotated[
        bool, typer.Option(help="Write the probabilities of all classes.")
    ] = True,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Minimum confidence for a label.", show_default="no minimum"
        ),
    ] = None,
    min_familiarity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Minimum familiarity for a label. Default: no minimum."),
    ] = None,
    single: Annotated[
        bool, typer.Option("--single", help="Merge the parts into one file at the end.")
    ] = False,
    escape_formulas: Annotated[
        bool,
        typer.Option(
            "--escape-formulas",
            help="Begin texts that a spreadsheet takes for formulas with an apostrophe.",
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Overwrite an existing result.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Resume the job of this folder, even if Redis has lost it. "
            "Replaces SOURCE and --out.",
        ),
    ] = None,
    priority: Annotated[
        Priority, typer.Option(help="Jobs of a higher priority go first.")
    ] = "normal",
    local: Annotated[
        bool, typer.Option("--local", help="Score in this process, without Redis and workers.")
    ] = False,
    slice_: Annotated[
        str | None,
        typer.Option(
            "--slice",
            metavar="I/N",
            help="Score slice I of N in this process, I from 0, without Redis and workers.",
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Write the summary when all slices are done.")
    ] = False,
    on: Annotated[
        ClusterName | None,
        typer.Option(
            help="Score on the cluster of RAY_ADDRESS, or of --master, without Redis and workers."
        ),
    ] = None,
    master: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Spark master, such as spark://HOST:7077, yarn or local[4].",
            show_default="that of Spark's configuration",
        ),
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of workers on this job.", show_default="all"),
    ] = None,
    max_errors: Annotated[
        str | None,
        typer.Option(
            metavar="N|%",
            help="End the job early if more images are errors: a number, or a share such as 5%.",
            show_default="no limit",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="True labels, to report the accuracy: 'folder' (the folder that contains an "
            "image) or 'column:NAME' of a source that has columns.",
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,…", help="Columns of a table or manifest to copy to the results."
        ),
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option(
            "--id",
            metavar="COLUMN",
            help="Column of a table or manifest with the ids.",
            show_default="id",
        ),
    ] = None,
    image_column: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of a table with the pictures, or of a manifest with their paths.",
            show_default="image; path or file_name",
        ),
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Array of an .npz to score.",
            show_default="the only one with images",
        ),
    ] = None,
) -> None:
    """Classify a whole set of images through the queue, --local, on a cluster, or in slices.

    Repeat the command to resume the same job.
    """
    _check_request(source, out, resume)
    _check_max_errors(max_errors)
    if master is not None and on != "spark":
        raise InvalidUsage("--master is only for --on spark.")
    mode = _choose_mode(
        slice_,
        on,
        finish=finish,
        local=local,
        others={"--detach": detach, "--again": again, "--max-errors": max_errors is not None},
    )
    as_file = file_format(out) if out else None
    if as_file and format_ not in (None, as_file):
        raise InvalidUsage(f"'{out}' is not a file of --format {format_}. Name it differently.")
    settings = load_settings()
    from worker.queue import submission

    options = read_flags(
        ScoringOptions,
        format=as_file or format_ or "parquet",
        top_k=top_k,
        probabilities=probabilities,
        threshold=threshold,
        min_familiarity=min_familiarity,
        single=single or as_file is not None,
        escape_formulas=escape_formulas,
        labels=labels,
        keep=keep or (),
        id=id_,
        image_column=image_column,
        array=array,
    )

    def prepare(find: submission.FindJob) -> submission.Prepared:
        if source is None or out is None:
            return submission.Prepared(submission.prepare_resume(resume or ""))
        return submission.prepare(
            find,
            source,
            out,
            model or settings.default_tag,
            settings.shard_images,
            options,
            again=again,
            can_replace=mode in (None, "local", "ray", "spark"),
            https=settings.https_access,
        )

    def show(prepared: submission.Prepared) -> None:
        request, verb = prepared.request, "has scored" if prepared.finished else "scores"
        scores = f" {verb} {request.source} with {request.model}"
        console.print(styled("job ", (request.job_id, "bold"), scores))

    if mode is not None:
        prepared = prepare(lambda _: None)
        show(prepared)
        _score_without_queue(settings, prepared, mode, master, max_errors)
        return
    with jobs_cli.open_jobs() as jobs:
        prepared = prepare(jobs.find)
        job = submission.submit(
            jobs,
            prepared,
            priority=priority,
            max_in_flight=max_in_flight,
            max_errors=max_errors,
        )
        show(prepared)
        jobs_cli.warn_without_worker(jobs)
        if not detach:
            jobs_cli.follow_job(jobs, job)


def _check_request(source: str | None, out: str | None, resume: str | None) -> None:
    """Raise `InvalidUsage` unless there are SOURCE and --out, or --resume alone."""
    if source == "" or resume == "":  # an unset variable; as a path it is the current folder
        raise InvalidUsage(f"{'SOURCE' if source == '' else '--resume'} is empty. Name a path.")
    if source and not out and not resume:
        raise InvalidUsage(f"Where should the results go? {score_command(source)}")
    if (source is None) != (out is None) or (source is None) == (resume is None):
        raise InvalidUsage("Give SOURCE and --out, or only --resume: loupe score --help")


def _check_max_errors(limit: str | None) -> None:
    """Raise `InvalidUsage` unless the limit is a number, or a share of at most 100%."""
    if limit is None or ERROR_LIMIT.fullmatch(limit):
        return
    raise InvalidUsage(f"--max-errors is a number, or a share such as 5%, not {limit!r}.")


def _choose_mode(
    part: str | None,
    on: ClusterName | None,
    *,
    finish: bool,
    local: bool,
    others: Mapping[str, bool],
) -> "Slice | Mode | None":
    """Return how to score without the queue; `None` to use it.

    Raises:
        InvalidUsage: If options exclude each other, or there is no such slice.
    """
    chosen = {"--slice": part is not None, "--finish": finish, "--local": local, "--on": bool(on)}
    modes = [name for name, is_set in chosen.items() if is_set]
    given = [name for name, is_set in others.items() if is_set and (name == "--detach" or not on)]
    if len(modes) > 1 or (given and modes and not local):
        advice = " Choose another --out, or remove the old result." if "--again" in given else ""
        raise InvalidUsage(f"{' and '.join(modes + given)} exclude each other.{advice}")
    if part is not None:
        from worker.scoring.slices import Slice

        return Slice.parse(part)
    return on or ("finish" if finish else "local" if local else None)


def _score_without_queue(
    settings: Settings,
    prepared: "Prepared",
    mode: "Slice | Mode",
    master: str | None,
    max_errors: str | None,
) -> None:
    """Score a job or a slice in this process or a cluster, or finish a job of slices."""
    from worker import slices
    from worker.process import running_locally

    if mode == "ray" or mode == "spark":
        from worker.adapters.cluster_job import score_on
        from worker.adapters.clusters import connect

        score_on(partial(connect, mode, master), settings, prepared, max_errors)
    elif mode == "finish":
        slices.finish(settings, prepared)
    elif mode != "local":
        slices.score_slice(settings, prepared, mode)
    elif prepared.finished:
        jobs_cli.show_ended(prepared.finished)
    else:
        with (
            running_locally(settings, prepared.request, max_errors) as queue,
            stop_on_signals(queue.interrupted),
        ):
            ended = jobs_cli.watch(queue, queue.job_id, console)
        with slices.leaving(queue):
            jobs_cli.show_ended(ended)
