"""Errors of service that are about to move to where they are raised."""

from collections.abc import Sequence

from loupe import errors

SHOWN_CHARACTERS = 80
SHOWN_COLUMNS = 12


class InvalidRequest(errors.InvalidRequest):
    """The request itself is not what the route takes."""

    code = "invalid_request"
    status = 400

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"Expected {expected}. Received: {received}.")


class InvalidJson(InvalidRequest):
    """The body says it is JSON and is not."""

    code = "invalid_json"


class BodyTooLarge(InvalidRequest):
    """The body has more bytes than the service takes."""

    code = "body_too_large"
    status = 413

    def __init__(self, limit_bytes: int, setting: str = "LOUPE_MAX_BODY_BYTES") -> None:
        super().__init__(f"a body of at most {limit_bytes:,} bytes ({setting})", "a longer one")


class BodyTooSlow(InvalidRequest):
    """The body takes longer to come than the service waits for it."""

    code = "body_too_slow"
    status = 408

    def __init__(
        self, limit_seconds: float, received_bytes: int, expected: str = "the whole body"
    ) -> None:
        super().__init__(
            f"{expected} within {limit_seconds:g} s", f"{received_bytes:,} bytes of it"
        )


class TooManyImages(InvalidRequest):
    """One request holds more images than the service takes."""

    code = "too_many_images"
    status = 413

    def __init__(self, limit: int, received: int) -> None:
        super().__init__(
            f"at most {limit:,} images in one request (LOUPE_MAX_IMAGES_PER_REQUEST, LOUPE_MAX_QUEUED_IMAGES); "
            "send several requests, or score the set as a job",
            f"{received:,}",
        )


class NotAcceptable(InvalidRequest):
    """The `Accept` header asks for an answer that this request cannot get."""

    code = "not_acceptable"
    status = 406


class HeadersTooLarge(InvalidRequest):
    """The headers have more bytes than the service takes."""

    code = "headers_too_large"
    status = 431

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"headers of at most {limit_bytes:,} bytes together", "longer ones")


class Unauthorized(errors.Unauthorized):
    """A key is needed, and none that the service knows has come."""

    code = "unauthorized"
    status = 401

    def __init__(self, given: bool) -> None:
        super().__init__(
            "Expected an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'. "
            f"Received: {'one that is not known' if given else 'none'}."
        )


class UnsupportedMediaType(InvalidRequest):
    """The `Content-Type` is none that the route reads."""

    code = "unsupported_media_type"
    status = 415


class RouteNotFound(errors.LoupeError):
    """A path that leads nowhere."""

    code = "route_not_found"
    status = 404

    def __init__(self, expected: str, path: str, nearest: str | None = None) -> None:
        hint = f"; the nearest is {nearest}" if nearest else ""
        super().__init__(f"Expected {expected}. Received: {_shortened(path)}{hint}.")


class MethodNotAllowed(errors.MethodNotAllowed):
    """A path that is known, with a method that is not."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        expected = " or ".join(each for each in allowed if each not in ("HEAD", "OPTIONS"))
        super().__init__(
            f"Expected {expected} for {_shortened(path)}. Received: {method}.", allowed
        )


class InternalError(errors.LoupeError):
    """What should not happen; the log says what it was."""

    def __init__(self) -> None:
        super().__init__("Something went wrong inside the service; its log says what.")


class Overloaded(errors.LoupeError):
    """More work is waiting than the service keeps."""

    code = "overloaded"
    status = 429

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(
            f"Expected at most {limit:,} images waiting (LOUPE_MAX_QUEUED_IMAGES). "
            f"Received more while {waiting:,} wait; try again in a second."
        )


class TooManyRequests(errors.TooManyRequests):
    """More requests wait for their answers than the service keeps."""

    code = "too_many_requests"
    status = 429

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Expected at most {limit:,} requests at a time (LOUPE_MAX_REQUESTS). Received more; try again in a second."
        )


class TooManyBytes(errors.LoupeError):
    """The bodies of the requests in hand would take more memory than the service gives them."""

    code = "too_many_bytes"
    status = 429

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Expected bodies of at most {limit:,} bytes at a time, all requests together (eight times LOUPE_MAX_BODY_BYTES). "
            "Received more; try again in a second."
        )


class DeadlineExceeded(errors.DeadlineExceeded):
    """The answer would come later than anybody waits for it."""

    code = "deadline_exceeded"
    status = 504

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(
            f"No answer within {timeout_seconds:g} s: what the request gives itself (X-Request-Timeout, or its protocol's own way to "
            "say so), at most LOUPE_REQUEST_TIMEOUT_SECONDS."
        )


class CallerGone(errors.CallerGone):
    """Nobody waits for the answer any more, so that it was not computed."""

    code = "caller_gone"
    status = 499  # what nginx writes into its log for it; nobody receives it

    def __init__(self) -> None:
        super().__init__("The caller has gone.")


class ShuttingDown(errors.ShuttingDown):
    """The service has stopped taking work."""

    code = "shutting_down"
    status = 503

    def __init__(self) -> None:
        super().__init__("The service is shutting down; send the request again.")


class GrpcUnavailable(errors.LoupeError):
    """A port for gRPC is set, and what speaks it is not installed."""

    code = "grpc_unavailable"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Expected gRPC to be installed, since LOUPE_GRPC_PORT is set. Received: {problem}. "
            "Install it: pip install 'loupe[grpc]'"
        )


class TracingUnavailable(errors.LoupeError):
    """Traces are asked for, and what sends them is not installed."""

    code = "tracing_unavailable"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Expected OpenTelemetry's exporter to be installed, since its endpoint is set (OTEL_EXPORTER_OTLP_…). Received: {problem}. "
            "Install it: pip install 'loupe[tracing]'"
        )


class InvalidKeyName(errors.LoupeError):
    """A name that an API key cannot have."""

    code = "invalid_key_name"
    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Expected a name of 1 to 64 letters, digits, dots, hyphens and underscores. Received: {name!r}."
        )


class JobNotDone(errors.LoupeError):
    """A job whose results are asked for before it has any, or that has failed."""

    code = "job_not_done"
    status = 409

    def __init__(self, job_id: str, state: str, error: str | None) -> None:
        why = f": {error}" if error else "."
        super().__init__(
            f"Expected a job that is done. Received: '{job_id}', which is {state}{why}"
        )


class ResultsNotFound(errors.LoupeError):
    """A job that has ended, without results that could be read."""

    code = "results_not_found"
    status = 404

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(
            f"Expected the results of job '{job_id}', which is {state}. Received: none in its folder. Submit its source again."
        )


class SourceForbidden(errors.LoupeError):
    """A source that callers over HTTP may not name; the message tells nothing of what is there."""

    code = "source_forbidden"
    status = 403

    def __init__(self, source: str) -> None:
        super().__init__(
            "Expected an absolute path below one of the folders that jobs may read (LOUPE_JOB_ROOTS). "
            f"Received: {_shortened(source)}. Send the images themselves, as the body of the request."
        )


class TooManyTransfers(errors.TooManyRequests):
    """More uploads, or more downloads and followers of jobs, than the service has at a time."""

    code = "too_many_transfers"
    status = 429

    def __init__(self, kind: str, limit: int) -> None:
        super().__init__(
            f"Expected at most {limit} {kind} at a time. Received one more; try again in a second."
        )


class UploadNotSaved(errors.LoupeError):
    """An upload that the service's disk does not take."""

    code = "upload_not_saved"
    status = 507

    def __init__(self, received_bytes: int, reason: str) -> None:
        super().__init__(
            f"Expected room for the upload in the service's data folder. Received: {reason}, after {received_bytes:,} bytes."
        )


def _fraction(value: float) -> str:
    """Six digits, without the zeros at the end: as exact as a test set can be."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _shortened(path: str) -> str:
    """A path on one line, however long it is and whatever stands in it."""
    return repr(path if len(path) <= SHOWN_CHARACTERS else path[:SHOWN_CHARACTERS] + "…")
