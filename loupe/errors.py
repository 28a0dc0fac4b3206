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

    def __init_subclass__(
        cls, code: str | None = None, status: int | None = None, exit_code: int | None = None
    ) -> None:
        """Set the class attributes that differ from those of the base class."""
        cls.code = code or cls.code
        cls.status = status or cls.status
        cls.exit_code = exit_code or cls.exit_code

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


class InvalidRequest(LoupeError, code="invalid_request", status=400):
    """The request is malformed."""


class Unauthorized(LoupeError, code="unauthorized", status=401):
    """The API key is missing or unknown."""


class Forbidden(LoupeError, code="source_forbidden", status=403):
    """The caller may not use what it names."""


class NotFound(LoupeError, code="route_not_found", status=404):
    """The path, tag or id is unknown."""


class ModelNotFound(NotFound, code="model_not_found"):
    """No model has that tag."""


class JobNotFound(NotFound, code="job_not_found"):
    """No job has that id."""


class MethodNotAllowed(LoupeError, code="method_not_allowed", status=405):
    """The path exists, but not with this method.

    Args:
        message: As for every error.
        allowed: Methods that the path supports.
    """

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotAcceptable(LoupeError, code="not_acceptable", status=406):
    """The `Accept` header names no format that the route can write."""


class BodyTooSlow(LoupeError, code="body_too_slow", status=408):
    """The body did not arrive in time."""


class Conflict(LoupeError, code="conflict", status=409):
    """The job, folder or model is in a state that does not allow the operation."""


class ContentTooLarge(LoupeError, code="body_too_large", status=413):
    """The body, or the number of images in it, exceeds a limit."""


class UnsupportedMediaType(LoupeError, code="unsupported_media_type", status=415):
    """The route cannot read bodies of this type."""


class TooManyRequests(LoupeError, code="too_many_requests", status=429):
    """The service, or its caller, is at a limit; a later try may succeed.

    Args:
        message: As for every error.
        code: As for every error.
        retry_after_seconds: How long to wait; a full queue empties within a second.
    """

    def __init__(
        self, message: str, *, code: str | None = None, retry_after_seconds: int = 1
    ) -> None:
        super().__init__(message, code=code)
        self.retry_after_seconds = retry_after_seconds


class HeadersTooLarge(LoupeError, code="headers_too_large", status=431):
    """The request headers exceed the limit."""


# nginx logs status 499 for this; no client receives it.
class CallerGone(LoupeError, code="caller_gone", status=499):
    """The client disconnected, so its answer was not computed."""


class ShuttingDown(LoupeError, code="shutting_down", status=503):
    """The service is stopping and accepts no more work."""

    def __init__(
        self, message: str = "The service is shutting down. Send the request again."
    ) -> None:
        super().__init__(message)


class DeadlineExceeded(LoupeError, code="deadline_exceeded", status=504):
    """The request ran out of time."""


class InsufficientStorage(LoupeError, code="upload_not_saved", status=507):
    """The disk cannot take an upload."""


# Images, models and engines


class InvalidImage(LoupeError, code="invalid_image", status=422):
    """The bytes are not one readable picture."""


class InvalidPixels(LoupeError, code="invalid_pixels", status=422):
    """The array does not have the dtype or shape that the model takes."""


class ModelCorrupted(LoupeError, code="model_corrupted"):
    """A stored model's files differ from those that were saved."""


class InvalidModel(LoupeError, code="invalid_model"):
    """A file is not a model that Loupe can import."""


# Bulk scoring


class InvalidSource(LoupeError, code="invalid_source", status=422):
    """A source, one of its records, or the output of a job cannot be used."""


class InvalidUrl(InvalidSource, code="invalid_url", exit_code=2):
    """Loupe cannot read this URL."""


class InvalidOutput(InvalidSource, code="invalid_output"):
    """The output folder cannot take the results."""


class SourceChanged(Conflict, code="source_changed"):
    """The source changed after the job was planned."""


class StorageUnavailable(LoupeError, code="storage_unavailable", status=503):
    """The object store does not answer; a later try may succeed."""


class StorageRefused(StorageUnavailable, code="storage_refused", status=403):
    """The object store rejects the credentials."""


class RedisUnavailable(LoupeError, code="redis_unavailable", status=503):
    """Redis cannot be reached or started."""


class JobFailed(LoupeError, code="job_failed"):
    """The job ended without a complete result."""


# Clients of the service


class ServiceUnreachable(LoupeError, code="service_unreachable", status=503):
    """No service answers at the URL."""


class RequestRefused(LoupeError, code="request_refused"):
    """The service answered with an error.

    Args:
        message: The service's message.
        code: The service's code.
        status: The HTTP status of its response.
    """

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message, code=code)
        self.status = status


class UnexpectedAnswer(LoupeError, code="unexpected_answer", status=502):
    """The response is not one that Loupe's service sends."""


# Commands, settings and training


class InvalidUsage(LoupeError, code="invalid_usage", exit_code=2):
    """A command was given options or arguments that cannot work."""


class InvalidSetting(LoupeError, code="invalid_setting"):
    """A setting has a value that it cannot have."""


class ProgramFailed(LoupeError, code="program_failed"):
    """A program, a training or an engine cannot start, or failed."""


class NotWritable(LoupeError, code="file_not_writable"):
    """A file or folder cannot be written."""


class InvalidDataset(LoupeError, code="invalid_dataset"):
    """The files of a data set cannot be trained on."""


class DatasetNotFound(InvalidDataset, code="dataset_not_found"):
    """The files of a data set were not found."""


# A shell reports SIGINT as 130.
class Interrupted(LoupeError, code="interrupted", exit_code=130):
    """The user stopped a command, or cancelled a job.

    Args:
        message: How far it got, and how to continue.
        code: As for every error.
        done: Epochs or trainings that were completed.
    """

    def __init__(self, message: str, *, code: str, done: int = 0) -> None:
        super().__init__(message, code=code)
        self.done = done
