"""Check what a user asks for, and make a job of it; end a job before its time."""

from pathlib import Path

from loupe.card import FILE_NAME, digest
from loupe.errors import InvalidOutput
from loupe.store import find_model, verify
from worker.jobs import DEFAULT_OPTIONS, Job, Jobs, Options
from worker.outputs import claim_folder, release_folder
from worker.sources import check_source


def submit(
    jobs: Jobs, source: Path, output: Path, model: str | None, shard_images: int, options: Options = DEFAULT_OPTIONS
) -> Job:
    """Put a job into the queue.

    Args:
        jobs: The queue's client side.
        source: What `worker.sources` reads: a folder, a pattern, an archive, a table or an array.
        output: A new or empty folder.
        model: As `loupe.store.find_model` takes it, or nothing; the job keeps the version found now, wherever labels move.
        shard_images: Most images in one shard.
        options: What the result is to look like.

    Raises:
        InvalidSource: If the source is clearly nothing to score.
        ModelNotFound: If there is no such model.
        ModelCorrupted: If its files are not those that were saved.
        InvalidOutput: If the output folder cannot take the results, or lies inside the source.
    """
    source, output = source.absolute(), output.absolute()
    check_source(source)
    found = find_model(model)
    verify(found)
    if output.resolve().is_relative_to(source.resolve()):
        raise InvalidOutput(str(output), f"a folder inside the source '{source}', where the next job would find it")
    claim_folder(output)
    try:
        return jobs.submit(
            str(source),
            str(output),
            model=found.tag,
            model_digest=digest(found.folder / FILE_NAME),
            shard_images=shard_images,
            options=options,
        )
    except BaseException:
        release_folder(output)
        raise


def cancel(jobs: Jobs, job_id: str) -> Job:
    """Score no more of a job; the output folder of one that nobody had begun is free again. Raises what `Jobs.cancel` does."""
    job = jobs.cancel(job_id)
    if job.state == "cancelled":
        release_folder(Path(job.output))
    return job
