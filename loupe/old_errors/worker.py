"""Errors of worker that are about to move to where they are raised."""

from collections.abc import Sequence

from loupe import errors

SHOWN_CHARACTERS = 80
SHOWN_COLUMNS = 12


class JobNotFound(errors.JobNotFound):
    """No job by that id."""

    code = "job_not_found"
    status = 404

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {_shortened(job_id)} is not known. List the known ones: loupe jobs")


class JobEnded(errors.LoupeError):
    """A job that has ended, and is asked for what only a living one can do."""

    code = "job_ended"
    status = 409

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"Job '{job_id}' has ended already: it is {state}.")


class JobNotEnded(errors.LoupeError):
    """A job that is asked for what only one can do that has ended otherwise."""

    code = "job_not_ended"
    status = 409

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(
            f"Expected job '{job_id}' to have failed, or to be cancelled. Received: one that is {state}."
        )


class NothingToResume(errors.LoupeError):
    """A folder without a job that could go on."""

    code = "nothing_to_resume"
    status = 409

    def __init__(self, output: str, received: str) -> None:
        super().__init__(
            f"Expected '{output}' to be the output folder of a job that has not ended well. Received: {received}."
        )


class ResultExists(errors.LoupeError):
    """An output folder with the result of the same job, but of an earlier state of the source."""

    code = "result_exists"
    status = 409

    def __init__(self, output: str) -> None:
        super().__init__(
            f"'{output}' holds the result of an earlier state of the source. "
            "Score it into another folder, or with --again in place of that result."
        )


class ContractDiffers(errors.LoupeError):
    """A job of another version of Loupe, whose record and steps may mean something else."""

    code = "contract_differs"
    status = 409

    def __init__(self, job_id: str, expected: str, received: str) -> None:
        super().__init__(
            f"Expected job '{job_id}' to follow version {expected} of the contract between those that submit and those that score. "
            f"Received: version {received}. Let both run the same version of Loupe."
        )


class RecordFailed(errors.LoupeError):
    """A record that made its shard fail whenever it was tried; found by trying halves of the shard."""

    code = "record_failed"
    status = 500

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"Expected to score this record. Received: a failure each time it was tried ({reason})."
        )


class InvalidRecord(errors.InvalidRecord):
    """A record of a source that is not even tried."""

    code = "invalid_record"
    status = 422

    def __init__(self, received: str) -> None:
        super().__init__(f"Expected a picture file with an id of its own. Received: {received}.")
        self.received = received


class InvalidSource(errors.InvalidSource):
    """A source of images that cannot be scored."""

    code = "invalid_source"
    status = 422

    def __init__(self, source: str, received: str) -> None:
        super().__init__(
            f"Expected a folder, an archive, a table or an array of images at '{source}'. Received: {received}."
        )


class ColumnNotFound(errors.LoupeError):
    """A column that a job is to read and that its source does not have."""

    code = "column_not_found"
    status = 422

    def __init__(self, source: str, column: str, columns: Sequence[str]) -> None:
        listed = ", ".join(columns[:SHOWN_COLUMNS]) + (" …" if len(columns) > SHOWN_COLUMNS else "")
        received = (
            f"columns {listed}"
            if columns
            else "a source without columns; tables and manifests have some"
        )
        super().__init__(
            f"Expected a column {_shortened(column)} in '{source}'. Received: {received}."
        )


class SourceChanged(errors.SourceChanged):
    """A source that is no longer what the job was planned on."""

    code = "source_changed"
    status = 409

    def __init__(self, source: str) -> None:
        super().__init__(
            f"'{source}' has changed since the job began. Submit it again, into a new output folder."
        )


class InvalidOutput(errors.InvalidOutput):
    """An output folder that cannot take a job's results."""

    code = "invalid_output"
    status = 422

    def __init__(self, output: str, received: str) -> None:
        super().__init__(f"Expected '{output}' to be a new or empty folder. Received: {received}.")


class InvalidUrl(errors.InvalidUrl):
    """A URL that no source or output can have."""

    code = "invalid_url"
    status = 422
    exit_code = 2

    def __init__(self, url: str, received: str) -> None:
        super().__init__(
            f"Expected a path, or a URL of file://, s3://, gs://, az:// or abfs://, at '{url}'. Received: {received}."
        )
        self.received = received


class StorageUnavailable(errors.StorageUnavailable):
    """A store of files that does not answer as it should. A later try, or another worker, may fare better."""

    code = "storage_unavailable"
    status = 503

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"Expected the storage of '{url}' to answer. Received: {problem}.")


class StorageRefused(StorageUnavailable):
    """A store of files that does not let Loupe in: no credentials, wrong ones, or ones that may not do this."""

    code = "storage_refused"
    status = 403

    def __init__(self, url: str, problem: str) -> None:
        Exception.__init__(
            self,
            f"Expected credentials that open '{url}'. Received: {problem}. "
            "Give some that do, here and to each worker; docs/scoring.md says how.",
        )


class ProtocolUnavailable(StorageUnavailable):
    """A URL whose protocol needs a package that is not installed."""

    code = "protocol_unavailable"

    def __init__(self, url: str, package: str) -> None:
        Exception.__init__(
            self,
            f"Expected what speaks {url.partition(':')[0]}:// to be installed, here and for each worker. Received: none. "
            f"Install it: pip install {package}",
        )


def _fraction(value: float) -> str:
    """Six digits, without the zeros at the end: as exact as a test set can be."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _shortened(path: str) -> str:
    """A path on one line, however long it is and whatever stands in it."""
    return repr(path if len(path) <= SHOWN_CHARACTERS else path[:SHOWN_CHARACTERS] + "…")
