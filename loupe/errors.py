"""Every error Loupe raises on purpose; those of the training job are in `train.errors`.

    LoupeError
    ├── InvalidRequest              400
    │   ├── InvalidJson             400
    │   ├── BodyTooLarge            413
    │   ├── BodyTooSlow             408
    │   ├── TooManyImages           413
    │   ├── UnknownLanguage         400
    │   ├── NotAcceptable           406
    │   ├── HeadersTooLarge         431
    │   └── UnsupportedMediaType    415
    ├── RouteNotFound               404
    ├── MethodNotAllowed            405
    ├── Unauthorized                401
    ├── InvalidImage                422
    │   ├── ImageTooLarge           422
    │   ├── ImageTooSmall           422
    │   └── AnimatedImage           422
    ├── InvalidPixels               422
    ├── ModelNotFound               404
    │   └── LabelNotFound           404
    ├── ModelCorrupted              500
    ├── StoreUnwritable
    ├── NotBetter
    ├── NotComparable
    ├── NothingToRollBack
    ├── VersionNeeded
    ├── LabelInUse
    ├── NotConfirmed
    ├── ReportNotFound              404
    ├── EngineUnavailable           500
    ├── EngineFailed                500
    ├── InternalError               500
    ├── Overloaded                  429
    ├── TooManyRequests             429
    ├── TooManyBytes                429
    ├── DeadlineExceeded            504
    ├── CallerGone                  499
    ├── ShuttingDown                503
    ├── InvalidAddress
    ├── InvalidApiKey
    ├── ServiceUnreachable          503
    ├── RequestRefused
    ├── UnexpectedAnswer            502
    ├── DrawingUnavailable
    ├── InvalidSetting
    ├── InvalidKeyName
    ├── RedisUnavailable            503
    ├── JobNotFound                 404
    ├── JobEnded                    409
    ├── JobNotEnded                 409
    ├── NothingToResume             409
    ├── ResultExists                409
    ├── ContractDiffers             409
    ├── RecordFailed                500
    ├── JobNotDone                  409
    ├── ResultsNotFound             404
    ├── SourceForbidden             403
    ├── TooManyTransfers            429
    ├── UploadNotSaved              507
    ├── InvalidRecord               422
    ├── InvalidSource               422
    ├── ColumnNotFound              422
    ├── SourceChanged               409
    ├── InvalidOutput               422
    ├── InvalidUrl                  422
    ├── StorageUnavailable          503
    │   ├── StorageRefused          403
    │   └── ProtocolUnavailable     503
    ├── AddressInUse
    ├── HostUnknown
    ├── GrpcUnavailable
    ├── TracingUnavailable
    ├── ProgramFailed
    └── JobFailed

Each class builds its message from typed arguments and knows its code and HTTP status; raising is all a caller does.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

SHOWN_CHARACTERS = 80  # of a path that an error repeats
SHOWN_COLUMNS = 12  # of a table that lacks one


class LoupeError(Exception):
    """The base: a message for people, a `code` for programs, an HTTP `status` for the service, an exit code for the terminal."""

    code = "internal_error"
    status = 500
    exit_code = 1  # 2 where the command itself was wrong, as for unknown options

    @property
    def message(self) -> str:
        """What was expected, what came, and what to do."""
        return str(self)

    def to_json(self) -> dict[str, str]:
        """The one shape of an error, wherever it is reported."""
        return {"error": self.message, "code": self.code}

    def at(self, place: str) -> "LoupeError":
        """This error, told of one item where many are refused for it."""
        self.args = (f"{place}: {self.message}",)
        return self


# Requests


class InvalidRequest(LoupeError):
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

    def __init__(self, limit_seconds: float, received_bytes: int, expected: str = "the whole body") -> None:
        super().__init__(f"{expected} within {limit_seconds:g} s", f"{received_bytes:,} bytes of it")


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


class UnknownLanguage(InvalidRequest):
    """Class names were asked for in a language that the model card does not have."""

    code = "unknown_language"

    def __init__(self, language: str, known: Iterable[str]) -> None:
        super().__init__(f"a language that the model has class names in ({', '.join(known)})", f"'{language}'")


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


class Unauthorized(LoupeError):
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


class RouteNotFound(LoupeError):
    """A path that leads nowhere."""

    code = "route_not_found"
    status = 404

    def __init__(self, expected: str, path: str, nearest: str | None = None) -> None:
        hint = f"; the nearest is {nearest}" if nearest else ""
        super().__init__(f"Expected {expected}. Received: {_shortened(path)}{hint}.")


class MethodNotAllowed(LoupeError):
    """A path that is known, with a method that is not."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        expected = " or ".join(each for each in allowed if each not in ("HEAD", "OPTIONS"))
        super().__init__(f"Expected {expected} for {_shortened(path)}. Received: {method}.")
        self.allowed = allowed


# Images


class InvalidImage(LoupeError):
    """Bytes that cannot be read as one picture."""

    code = "invalid_image"
    status = 422

    def __init__(self, received: str) -> None:
        super().__init__(f"Expected a whole PNG, JPEG, WebP, BMP, GIF or TIFF image. Received: {received}.")


class ImageTooLarge(InvalidImage):
    """A picture whose header promises more pixels than Loupe decodes."""

    code = "image_too_large"

    def __init__(self, width: int, height: int, limit: int) -> None:
        Exception.__init__(
            self,
            f"Expected an image of at most {limit:,} pixels (LOUPE_MAX_IMAGE_PIXELS). "
            f"Received: {width:,} × {height:,} = {width * height:,}.",
        )


class ImageTooSmall(InvalidImage):
    """A picture too small to show anything."""

    code = "image_too_small"

    def __init__(self, width: int, height: int, minimum: int) -> None:
        Exception.__init__(
            self, f"Expected an image of at least {minimum} × {minimum} pixels. Received: {width} × {height}."
        )


class AnimatedImage(InvalidImage):
    """A file that holds several pictures."""

    code = "animated_image"

    def __init__(self, kind: str) -> None:
        Exception.__init__(
            self, f"Expected one picture. Received: a {kind} of several frames; send the frame you mean."
        )


class InvalidPixels(LoupeError):
    """An array that is not images as the models take them."""

    code = "invalid_pixels"
    status = 422

    def __init__(self, expected: str, received: str) -> None:
        super().__init__(f"Expected {expected}. Received: {received}.")


# Models


class ModelNotFound(LoupeError):
    """No model by that tag."""

    code = "model_not_found"
    status = 404

    def __init__(self, tag: str | None, known: Iterable[str]) -> None:
        names = ", ".join(known)
        wanted = f"Model {_shortened(tag)} is not there." if tag is not None else "The model store is empty."
        advice = f"There are: {names}." if names else "Train one first: loupe train --dataset fashion-mnist"
        super().__init__(f"{wanted} {advice}")


class LabelNotFound(ModelNotFound):
    """No model by that label."""

    code = "label_not_found"

    def __init__(self, tag: str, deleted: str | None, known: Iterable[str]) -> None:
        name, _, label = tag.partition(":")
        problem = f"points at {deleted}, which is not in the store any more" if deleted else "has never been given"
        versions = ", ".join(known)
        advice = f"Promote one of {versions}: loupe models promote TAG" if versions else f"There is no model '{name}'."
        Exception.__init__(self, f"Model '{tag}' is not there: the label '{label}' of '{name}' {problem}. {advice}")


class ModelCorrupted(LoupeError):
    """A stored model whose files are not those that were saved."""

    code = "model_corrupted"

    def __init__(self, tag: str, file: str, problem: str) -> None:
        super().__init__(
            f"Model '{tag}' cannot be trusted: {file} {problem}. Delete it from the store and train again."
        )


class StoreUnwritable(LoupeError):
    """The model store cannot be used: a disk that is full, a folder of somebody else, a file where a folder should be."""

    code = "store_unwritable"

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(
            f"Expected to read and write the model store at '{os.fspath(path)}'. Received: {reason}. Nothing was saved. "
            "Make room there, or choose a folder of your own: BENTOML_HOME."
        )

    @classmethod
    def of(cls, error: OSError, path: Path) -> "StoreUnwritable":
        """For what the system said of a path in the store."""
        # Copying a folder tells of every file that failed; the first is enough.
        first = error.args[0][0][-1] if error.args and isinstance(error.args[0], list) else None
        where = "" if error.filename is None else f" ({error.filename})"
        return cls(path, str(first or f"{error.strerror or error}{where}"))


class NotBetter(LoupeError):
    """A model to be promoted that is no better than the one in production."""

    code = "not_better"

    def __init__(self, tag: str, accuracy: float, production: str, production_accuracy: float) -> None:
        below = production_accuracy - accuracy
        super().__init__(
            f"Expected a test accuracy above {_fraction(production_accuracy)}, that of {production} in production. "
            f"Received: {tag} with {_fraction(accuracy)}, {f'{_fraction(below)} below' if below else 'no better'}, "
            f"on the same test set. Promote it all the same: loupe models promote {tag} --force"
        )


class NotComparable(LoupeError):
    """A model to be promoted that was measured on other images than the one in production."""

    code = "not_comparable"

    def __init__(self, tag: str, accuracy: float, production: str, production_accuracy: float) -> None:
        super().__init__(
            f"Expected the test set that {production} in production was measured on. Received: {tag}, measured on another: "
            f"its test accuracy of {_fraction(accuracy)} cannot be compared with {_fraction(production_accuracy)}. "
            f"Promote it all the same: loupe models promote {tag} --force"
        )


class NothingToRollBack(LoupeError):
    """A name without an earlier version in production."""

    code = "nothing_to_roll_back"

    def __init__(self, name: str, production: str | None, deleted: Iterable[str]) -> None:
        gone = ", ".join(deleted)
        if production is None:
            received = f"'{name}', of which nothing has been promoted"
        elif gone:
            received = f"'{name}': before {production} there was {gone}, not in the store any more"
        else:
            received = f"'{name}', of which {production} is the first"
        super().__init__(f"Expected the name of a model that had another version in production. Received: {received}.")


class VersionNeeded(LoupeError):
    """A name where one version of it must be meant."""

    code = "version_needed"
    exit_code = 2

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"Expected one version, as NAME:VERSION. Received: '{tag}'. `loupe models` lists the versions there are."
        )


class LabelInUse(LoupeError):
    """A model to be deleted that a label points at."""

    code = "label_in_use"

    def __init__(self, tag: str, label: str, others: Iterable[str]) -> None:
        versions = ", ".join(others)
        advice = (
            f"Promote one of {versions} first: loupe models promote TAG"
            if versions
            else f"It is the only version; to be rid of it all the same: bentoml models delete {tag}"
        )
        super().__init__(f"Expected a model without a label. Received: {tag}, which is '{label}'. {advice}")


class NotConfirmed(LoupeError):
    """Something that cannot be undone, where nobody can be asked."""

    code = "not_confirmed"
    exit_code = 2

    def __init__(self, action: str) -> None:
        super().__init__(f"Expected --yes to {action} where no terminal is there to ask. Nothing was done.")


class ReportNotFound(LoupeError):
    """A stored model without a report."""

    code = "report_not_found"
    status = 404

    def __init__(self, tag: str, file: str) -> None:
        super().__init__(
            f"Expected {file} in the folder of {tag}. Received: none; it was saved without a report. "
            "Models trained now have one: loupe train"
        )


class EngineUnavailable(LoupeError):
    """The chosen engine is not installed."""

    code = "engine_unavailable"

    def __init__(self, engine: str, extra: str) -> None:
        super().__init__(f"The engine '{engine}' is not installed. Install it: pip install 'loupe[{extra}]'")


class EngineFailed(LoupeError):
    """The engine raised, or answered with the wrong number of rows."""

    code = "engine_failed"


# Service


class InternalError(LoupeError):
    """What should not happen; the log says what it was."""

    def __init__(self) -> None:
        super().__init__("Something went wrong inside the service; its log says what.")


class Overloaded(LoupeError):
    """More work is waiting than the service keeps."""

    code = "overloaded"
    status = 429

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(
            f"Expected at most {limit:,} images waiting (LOUPE_MAX_QUEUED_IMAGES). "
            f"Received more while {waiting:,} wait; try again in a second."
        )


class TooManyRequests(LoupeError):
    """More requests wait for their answers than the service keeps."""

    code = "too_many_requests"
    status = 429

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Expected at most {limit:,} requests at a time (LOUPE_MAX_REQUESTS). Received more; try again in a second."
        )


class TooManyBytes(LoupeError):
    """The bodies of the requests in hand would take more memory than the service gives them."""

    code = "too_many_bytes"
    status = 429

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"Expected bodies of at most {limit:,} bytes at a time, all requests together (eight times LOUPE_MAX_BODY_BYTES). "
            "Received more; try again in a second."
        )


class DeadlineExceeded(LoupeError):
    """The answer would come later than anybody waits for it."""

    code = "deadline_exceeded"
    status = 504

    def __init__(self, timeout_seconds: float) -> None:
        super().__init__(
            f"No answer within {timeout_seconds:g} s: what the request gives itself (X-Request-Timeout, or its protocol's own way to "
            "say so), at most LOUPE_REQUEST_TIMEOUT_SECONDS."
        )


class CallerGone(LoupeError):
    """Nobody waits for the answer any more, so that it was not computed."""

    code = "caller_gone"
    status = 499  # what nginx writes into its log for it; nobody receives it

    def __init__(self) -> None:
        super().__init__("The caller has gone.")


class ShuttingDown(LoupeError):
    """The service has stopped taking work."""

    code = "shutting_down"
    status = 503

    def __init__(self) -> None:
        super().__init__("The service is shutting down; send the request again.")


# Clients of the service


class InvalidAddress(LoupeError):
    """An address that no service can have."""

    code = "invalid_address"
    exit_code = 2

    def __init__(self, url: str) -> None:
        super().__init__(f"Expected the service's address, as http://HOST:PORT. Received: '{url}'.")


class InvalidApiKey(LoupeError):
    """An API key that no header can carry; the message does not show it."""

    code = "invalid_api_key"
    exit_code = 2

    def __init__(self, received: str) -> None:
        super().__init__(f"Expected an API key of printable ASCII characters without spaces. Received: {received}.")


class ServiceUnreachable(LoupeError):
    """No answer from where the service should be."""

    code = "service_unreachable"
    status = 503

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(f"Expected the service at {url}. Received: {problem}. Start it: loupe serve")


class RequestRefused(LoupeError):
    """The service's own error; `code`, `status` and `message` are what it said."""

    code = "request_refused"

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class UnexpectedAnswer(LoupeError):
    """An answer that the service does not give."""

    code = "unexpected_answer"
    status = 502

    def __init__(self, url: str, received: str) -> None:
        super().__init__(f"Expected an answer of Loupe's service from {url}. Received: {received}.")


class DrawingUnavailable(LoupeError):
    """A picture is to be drawn, and nothing can draw it."""

    code = "drawing_unavailable"

    def __init__(self) -> None:
        super().__init__("Expected matplotlib, to draw with. Received: none. Install it: pip install 'loupe[client]'")


# Settings, programs and data


class InvalidSetting(LoupeError):
    """An environment variable or option with a value it cannot have."""

    code = "invalid_setting"

    def __init__(self, problems: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(f"{name} has value {value!r}: {expected}" for name, (value, expected) in problems.items())
        )


class AddressInUse(LoupeError):
    """A program cannot listen where it should."""

    code = "address_in_use"

    def __init__(self, host: str, port: int, problem: str, setting: str) -> None:
        super().__init__(
            f"Expected {host}:{port} to be free to listen on. Received: {problem}. Choose another: {setting}."
        )


class HostUnknown(LoupeError):
    """A program cannot listen at an address, since this machine does not have it."""

    code = "host_unknown"

    def __init__(self, host: str, problem: str) -> None:
        super().__init__(
            f"Expected an address of this machine to listen on. Received: '{host}' ({problem}). Choose another: --host or LOUPE_HOST."
        )


class GrpcUnavailable(LoupeError):
    """A port for gRPC is set, and what speaks it is not installed."""

    code = "grpc_unavailable"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Expected gRPC to be installed, since LOUPE_GRPC_PORT is set. Received: {problem}. "
            "Install it: pip install 'loupe[grpc]'"
        )


class TracingUnavailable(LoupeError):
    """Traces are asked for, and what sends them is not installed."""

    code = "tracing_unavailable"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"Expected OpenTelemetry's exporter to be installed, since its endpoint is set (OTEL_EXPORTER_OTLP_…). Received: {problem}. "
            "Install it: pip install 'loupe[tracing]'"
        )


class ProgramFailed(LoupeError):
    """A process that Loupe started ended when it should not have."""

    code = "program_failed"

    def __init__(self, program: str, problem: str, output: str = "") -> None:
        super().__init__(f"{program} {problem}." + (f" Its last words:\n{output}" if output else ""))


# Bulk scoring


class InvalidKeyName(LoupeError):
    """A name that an API key cannot have."""

    code = "invalid_key_name"
    exit_code = 2

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Expected a name of 1 to 64 letters, digits, dots, hyphens and underscores. Received: {name!r}."
        )


class RedisUnavailable(LoupeError):
    """No Redis where one should be."""

    code = "redis_unavailable"
    status = 503

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"Expected a Redis at {where}. Received: {problem}.")


class JobNotFound(LoupeError):
    """No job by that id."""

    code = "job_not_found"
    status = 404

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {_shortened(job_id)} is not known. List the known ones: loupe jobs")


class JobEnded(LoupeError):
    """A job that has ended, and is asked for what only a living one can do."""

    code = "job_ended"
    status = 409

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"Job '{job_id}' has ended already: it is {state}.")


class JobNotEnded(LoupeError):
    """A job that is asked for what only one can do that has ended otherwise."""

    code = "job_not_ended"
    status = 409

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(f"Expected job '{job_id}' to have failed, or to be cancelled. Received: one that is {state}.")


class NothingToResume(LoupeError):
    """A folder without a job that could go on."""

    code = "nothing_to_resume"
    status = 409

    def __init__(self, output: str, received: str) -> None:
        super().__init__(
            f"Expected '{output}' to be the output folder of a job that has not ended well. Received: {received}."
        )


class ResultExists(LoupeError):
    """An output folder with the result of the same job, but of an earlier state of the source."""

    code = "result_exists"
    status = 409

    def __init__(self, output: str) -> None:
        super().__init__(
            f"'{output}' holds the result of an earlier state of the source. "
            "Score it into another folder, or with --again in place of that result."
        )


class ContractDiffers(LoupeError):
    """A job of another version of Loupe, whose record and steps may mean something else."""

    code = "contract_differs"
    status = 409

    def __init__(self, job_id: str, expected: str, received: str) -> None:
        super().__init__(
            f"Expected job '{job_id}' to follow version {expected} of the contract between those that submit and those that score. "
            f"Received: version {received}. Let both run the same version of Loupe."
        )


class RecordFailed(LoupeError):
    """A record that made its shard fail whenever it was tried; found by trying halves of the shard."""

    code = "record_failed"
    status = 500

    def __init__(self, reason: str) -> None:
        super().__init__(f"Expected to score this record. Received: a failure each time it was tried ({reason}).")


class JobNotDone(LoupeError):
    """A job whose results are asked for before it has any, or that has failed."""

    code = "job_not_done"
    status = 409

    def __init__(self, job_id: str, state: str, error: str | None) -> None:
        why = f": {error}" if error else "."
        super().__init__(f"Expected a job that is done. Received: '{job_id}', which is {state}{why}")


class ResultsNotFound(LoupeError):
    """A job that has ended, without results that could be read."""

    code = "results_not_found"
    status = 404

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(
            f"Expected the results of job '{job_id}', which is {state}. Received: none in its folder. Submit its source again."
        )


class SourceForbidden(LoupeError):
    """A source that callers over HTTP may not name; the message tells nothing of what is there."""

    code = "source_forbidden"
    status = 403

    def __init__(self, source: str) -> None:
        super().__init__(
            "Expected an absolute path below one of the folders that jobs may read (LOUPE_JOB_ROOTS). "
            f"Received: {_shortened(source)}. Send the images themselves, as the body of the request."
        )


class TooManyTransfers(LoupeError):
    """More uploads, or more downloads and followers of jobs, than the service has at a time."""

    code = "too_many_transfers"
    status = 429

    def __init__(self, kind: str, limit: int) -> None:
        super().__init__(f"Expected at most {limit} {kind} at a time. Received one more; try again in a second.")


class UploadNotSaved(LoupeError):
    """An upload that the service's disk does not take."""

    code = "upload_not_saved"
    status = 507

    def __init__(self, received_bytes: int, reason: str) -> None:
        super().__init__(
            f"Expected room for the upload in the service's data folder. Received: {reason}, after {received_bytes:,} bytes."
        )


class InvalidRecord(LoupeError):
    """A record of a source that is not even tried."""

    code = "invalid_record"
    status = 422

    def __init__(self, received: str) -> None:
        super().__init__(f"Expected a picture file with an id of its own. Received: {received}.")
        self.received = received


class InvalidSource(LoupeError):
    """A source of images that cannot be scored."""

    code = "invalid_source"
    status = 422

    def __init__(self, source: str, received: str) -> None:
        super().__init__(
            f"Expected a folder, an archive, a table or an array of images at '{source}'. Received: {received}."
        )


class ColumnNotFound(LoupeError):
    """A column that a job is to read and that its source does not have."""

    code = "column_not_found"
    status = 422

    def __init__(self, source: str, column: str, columns: Sequence[str]) -> None:
        listed = ", ".join(columns[:SHOWN_COLUMNS]) + (" …" if len(columns) > SHOWN_COLUMNS else "")
        received = f"columns {listed}" if columns else "a source without columns; tables and manifests have some"
        super().__init__(f"Expected a column {_shortened(column)} in '{source}'. Received: {received}.")


class SourceChanged(LoupeError):
    """A source that is no longer what the job was planned on."""

    code = "source_changed"
    status = 409

    def __init__(self, source: str) -> None:
        super().__init__(f"'{source}' has changed since the job began. Submit it again, into a new output folder.")


class InvalidOutput(LoupeError):
    """An output folder that cannot take a job's results."""

    code = "invalid_output"
    status = 422

    def __init__(self, output: str, received: str) -> None:
        super().__init__(f"Expected '{output}' to be a new or empty folder. Received: {received}.")


class InvalidUrl(LoupeError):
    """A URL that no source or output can have."""

    code = "invalid_url"
    status = 422
    exit_code = 2

    def __init__(self, url: str, received: str) -> None:
        super().__init__(
            f"Expected a path, or a URL of file://, s3://, gs://, az:// or abfs://, at '{url}'. Received: {received}."
        )
        self.received = received


class StorageUnavailable(LoupeError):
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


class JobFailed(LoupeError):
    """A job that ended without its whole result."""

    code = "job_failed"

    def __init__(self, job_id: str, error: str) -> None:
        super().__init__(f"Job {job_id} failed: {error}")


def _fraction(value: float) -> str:
    """Six digits, without the zeros at the end: as exact as a test set can be."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _shortened(path: str) -> str:
    """A path on one line, however long it is and whatever stands in it."""
    return repr(path if len(path) <= SHOWN_CHARACTERS else path[:SHOWN_CHARACTERS] + "…")
