"""The errors that Loupe raises on purpose.

A class exists if callers catch it, or if its HTTP status or exit code differs. The message is
written where the error is raised. `code` names the condition for programs and is part of the API.
"""

from collections.abc import Sequence


class LoupeError(Exception):
    """The base of all errors.

    Args:
        message: What is wrong, which item, and what to do.
        code: Stable name of the condition; the class has one for the usual case.

    Attributes:
        status: HTTP status of the response that reports the error.
        exit_code: Exit code of the command that ends with the error; 2 means wrong usage.
    """

    code = "internal_error"
    status = 500
    exit_code = 1

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        """The text for people."""
        return str(self)

    def to_json(self) -> dict[str, str]:
        """Return the error as every response, row and log line reports it."""
        return {"error": self.message, "code": self.code}

    def at(self, item: str) -> "LoupeError":
        """Put the name of the item that was refused in front of the message."""
        self.args = (f"{item}: {self.message}",)
        return self


# Requests


class InvalidRequest(LoupeError):
    """The request is malformed."""

    code = "invalid_request"
    status = 400


class Unauthorized(LoupeError):
    """The API key is missing or unknown."""

    code = "unauthorized"
    status = 401


class Forbidden(LoupeError):
    """The caller may not use what it names."""

    code = "source_forbidden"
    status = 403


class NotFound(LoupeError):
    """The path, tag or id is unknown."""

    code = "route_not_found"
    status = 404


class ModelNotFound(NotFound):
    """No model has that tag."""

    code = "model_not_found"


class JobNotFound(NotFound):
    """No job has that id."""

    code = "job_not_found"


class MethodNotAllowed(LoupeError):
    """The path exists, but not with this method.

    Args:
        message: As for every error.
        allowed: Methods that the path supports.
    """

    code = "method_not_allowed"
    status = 405

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotAcceptable(LoupeError):
    """The `Accept` header names no format that the route can write."""

    code = "not_acceptable"
    status = 406


class BodyTooSlow(LoupeError):
    """The body did not arrive in time."""

    code = "body_too_slow"
    status = 408


class Conflict(LoupeError):
    """The job, folder or model is in a state that does not allow the operation."""

    code = "conflict"
    status = 409


class ContentTooLarge(LoupeError):
    """The body, or the number of images in it, exceeds a limit."""

    code = "body_too_large"
    status = 413


class UnsupportedMediaType(LoupeError):
    """The route cannot read bodies of this type."""

    code = "unsupported_media_type"
    status = 415


class TooManyRequests(LoupeError):
    """The service is at a limit; a later try may succeed."""

    code = "too_many_requests"
    status = 429


class HeadersTooLarge(LoupeError):
    """The request headers exceed the limit."""

    code = "headers_too_large"
    status = 431


class CallerGone(LoupeError):
    """The client disconnected, so its answer was not computed."""

    code = "caller_gone"
    status = 499  # nginx logs this status for it; no client receives it


class ShuttingDown(LoupeError):
    """The service is stopping and accepts no more work."""

    code = "shutting_down"
    status = 503


class DeadlineExceeded(LoupeError):
    """The request ran out of time."""

    code = "deadline_exceeded"
    status = 504


class InsufficientStorage(LoupeError):
    """The disk cannot take an upload."""

    code = "upload_not_saved"
    status = 507


# Images, models and engines


class InvalidImage(LoupeError):
    """The bytes are not one readable picture."""

    code = "invalid_image"
    status = 422


class InvalidPixels(LoupeError):
    """The array does not have the dtype or shape that the model takes."""

    code = "invalid_pixels"
    status = 422


class ModelCorrupted(LoupeError):
    """A stored model's files differ from those that were saved."""

    code = "model_corrupted"


# Bulk scoring


class InvalidSource(LoupeError):
    """A source, one of its records, or the output of a job cannot be used."""

    code = "invalid_source"
    status = 422


class InvalidUrl(InvalidSource):
    """Loupe cannot read this URL."""

    code = "invalid_url"
    exit_code = 2


class InvalidOutput(InvalidSource):
    """The output folder cannot take the results."""

    code = "invalid_output"


class SourceChanged(Conflict):
    """The source changed after the job was planned."""

    code = "source_changed"


class StorageUnavailable(LoupeError):
    """The object store does not answer; a later try may succeed."""

    code = "storage_unavailable"
    status = 503


class StorageRefused(StorageUnavailable):
    """The object store rejects the credentials."""

    code = "storage_refused"
    status = 403


class RedisUnavailable(LoupeError):
    """Redis cannot be reached or started."""

    code = "redis_unavailable"
    status = 503


class JobFailed(LoupeError):
    """The job ended without a complete result."""

    code = "job_failed"


# Clients of the service


class ServiceUnreachable(LoupeError):
    """No service answers at the URL."""

    code = "service_unreachable"
    status = 503


class RequestRefused(LoupeError):
    """The service answered with an error.

    Args:
        message: The service's message.
        code: The service's code.
        status: The HTTP status of its response.
    """

    code = "request_refused"

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message, code=code)
        self.status = status


class UnexpectedAnswer(LoupeError):
    """The response is not one that Loupe's service sends."""

    code = "unexpected_answer"
    status = 502


# Commands, settings and training


class InvalidUsage(LoupeError):
    """A command was given options or arguments that cannot work."""

    code = "invalid_usage"
    exit_code = 2


class InvalidSetting(LoupeError):
    """A setting has a value that it cannot have."""

    code = "invalid_setting"


class ProgramFailed(LoupeError):
    """A program, a training or an engine cannot start, or failed."""

    code = "program_failed"


class NotWritable(LoupeError):
    """A file or folder cannot be written."""

    code = "file_not_writable"


class InvalidDataset(LoupeError):
    """The files of a data set cannot be trained on."""

    code = "invalid_dataset"


class DatasetNotFound(InvalidDataset):
    """The files of a data set were not found."""

    code = "dataset_not_found"


class Interrupted(LoupeError):
    """The user stopped a command with Ctrl-C.

    Args:
        message: How far it got, and how to continue.
        code: As for every error.
        done: Epochs or trainings that were completed.
    """

    code = "interrupted"
    exit_code = 130  # as a shell reports SIGINT

    def __init__(self, message: str, *, code: str, done: int = 0) -> None:
        super().__init__(message, code=code)
        self.done = done
