"""Errors of worker that are about to move to where they are raised."""

from loupe import errors

SHOWN_CHARACTERS = 80


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


def _shortened(path: str) -> str:
    """A path on one line, however long it is and whatever stands in it."""
    return repr(path if len(path) <= SHOWN_CHARACTERS else path[:SHOWN_CHARACTERS] + "…")
