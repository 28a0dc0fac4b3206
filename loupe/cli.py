"""The `loupe` command. Each subcommand imports its program only when it runs, so that `loupe --help` is quick."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from loupe.commands import data, jobs, models, train
from loupe.commands.predict import predict
from loupe.errors import LoupeError
from loupe.settings import ENV_PREFIX, Settings, load_settings
from loupe.terminal import console, log_to_stderr, notices

if TYPE_CHECKING:
    from worker.jobs import Job

app = typer.Typer(
    name="loupe",
    help="Train, serve and bulk-score classifiers of small images. Every LOUPE_… setting is in docs/settings.md.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(train.app, name="train")
app.add_typer(models.app, name="models")
app.add_typer(jobs.app, name="jobs")
app.add_typer(data.app, name="data")
app.command()(predict)


def main() -> None:
    """Run the command line; an error that Loupe foresaw is one message and its exit code, never a traceback."""
    report_nothing()
    try:
        app()
    except LoupeError as error:
        notices.print(f"[bold red]error:[/] [default]{error.code}[/]:", end=" ")
        notices.print(error.message, markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


def report_nothing() -> None:
    """Keep BentoML and ONNX Runtime, here and in child processes, from reporting to their makers, unless you ask for it."""
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@app.command()
def serve(
    model: Annotated[str | None, typer.Option(help="Model that answers when a request names none.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve the models in the store over HTTP."""
    settings = _settings(model=model, host=host, port=port)
    from service.server import serve as run

    run(settings)


@app.command()
def key(name: Annotated[str, typer.Argument(help="Of whoever is to have it; it stands in log and metrics.")]) -> None:
    """Make an API key for somebody who may call the service."""
    from service.keys import new_key

    made = new_key(name)
    console.print(f"[bold]key[/]    {made.key}\n         for {name}; it is not kept anywhere", highlight=False)
    console.print(
        f"[bold]entry[/]  {made.entry}\n         for LOUPE_API_KEYS, or the file that LOUPE_API_KEYS_FILE names",
        highlight=False,
    )


@app.command()
def worker(
    burst: Annotated[bool, typer.Option("--burst", help="Exit when the queue is empty.")] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that share the cores, each with a model of its own.")
    ] = 1,
) -> None:
    """Score the jobs in the queue."""
    settings = load_settings()
    log_to_stderr()
    stopping = threading.Event()
    if processes > 1:
        from worker.supervisor import supervise

        with _signals(stopping):
            supervise(settings, processes, stopping, burst=burst)
        return
    from worker.process import work

    with _signals(stopping):
        ended = work(settings, stopping, burst=burst)
    if not ended:
        os._exit(0)  # now, and not when its threads have finished what nobody needs any more


@app.command()
def score(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A folder, a pattern, an archive, a table or an array of images, by path or URL; docs/scoring.md has the list."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="New or empty folder for the results, by path or URL, or that of the same job before."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model to score with: NAME, NAME:VERSION or NAME:production. Default: LOUPE_MODEL."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the job's end.")] = False,
    format_: Annotated[
        Literal["parquet", "csv", "jsonl"], typer.Option("--format", help="Of the files with predictions.")
    ] = "parquet",
    top_k: Annotated[int, typer.Option(min=1, help="Labels in a row, the most probable first.")] = 1,
    probabilities: Annotated[bool, typer.Option(help="Write the probabilities of all classes.")] = True,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Confidence from which on a label is given. Default: always.")
    ] = None,
    single: Annotated[bool, typer.Option("--single", help="One file in the end, instead of parts.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Make a result anew that is there already.")] = False,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="OUT",
            help="Instead of SOURCE and --out: go on with the job of a folder, even if Redis has lost it.",
        ),
    ] = None,
    priority: Annotated[
        Literal["high", "normal", "low"], typer.Option(help="Jobs of a higher one go first.")
    ] = "normal",
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
        str | None, typer.Option(metavar="COLUMN,…", help="Columns of a table or manifest that the rows repeat.")
    ] = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", metavar="COLUMN", help="Column of a table or manifest with the ids. Default: id."),
    ] = None,
) -> None:
    """Score a whole set of images through the queue. The same command again is the same job."""
    if (source is None) != (out is None) or (source is None) == (resume is None):
        raise typer.BadParameter("needs SOURCE and --out, or --resume alone")
    settings = load_settings()
    from worker import submission
    from worker.jobs import Options, Submissions

    kept = tuple(name.strip() for name in keep.split(",")) if keep else ()

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
                Options(format_, top_k, probabilities, threshold, single, labels, kept, id_),
                again=again,
                priority=priority,
                most_in_flight=max_in_flight,
                https_sources=settings.https_sources,
            )
        does = "has scored" if job.state == "done" else "scores"
        console.print(f"job [bold]{job.id}[/] {does} {job.source} with {job.model}", highlight=False)
        return job

    if local:
        from worker.local import working

        with working(settings) as here, _signals(here.interrupted):
            jobs.follow_job(here, submitted(here))
        return
    with jobs.open_jobs() as queue:
        job = submitted(queue)
        jobs.warn_without_worker(queue)
        if not detach:
            jobs.follow_job(queue, job)


@app.command()
def up(
    port: Annotated[int | None, typer.Option(help="Port of the service.")] = None,
) -> None:
    """Run everything: an embedded Redis, a worker and the service, until Ctrl-C."""
    settings = _settings(port=port)
    log_to_stderr()
    from loupe.ports import listen
    from loupe.stack import running_stack
    from loupe.store import list_models

    listen(settings.host, settings.port).close()  # told now, not after a training, and not by somebody else's service
    if not list_models():
        console.print("The model store is empty: training a first model on Fashion-MNIST.")
        train.train_first()
    stopping = threading.Event()
    with _signals(stopping), running_stack(settings, stopping) as stack:
        console.print(f"\n[bold]predict[/]  curl -F image=@PICTURE {stack.url}/predict", highlight=False)
        console.print("[bold]score[/]    loupe score FOLDER --out RESULTS", highlight=False)
        console.print(f"[bold]look[/]     {stack.url} (API), {stack.url}/metrics", highlight=False)
        console.print("Ctrl-C stops everything.\n")
        stack.watch(stopping)


def _settings(**options: str | int | None) -> Settings:
    """The settings, with the options that were given in the place of their variables, for this process and its children."""
    for name, value in options.items():
        if value is not None:
            os.environ[f"{ENV_PREFIX}{name.upper()}"] = str(value)
    return load_settings()


@contextmanager
def _signals(stopping: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stopping` instead of ending the process."""
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    main()
