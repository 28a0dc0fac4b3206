"""Errors of core that are about to move to where they are raised."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from loupe import errors

SHOWN_CHARACTERS = 80
SHOWN_COLUMNS = 12


class UnknownLanguage(errors.InvalidRequest):
    """Class names were asked for in a language that the model card does not have."""

    code = "unknown_language"

    def __init__(self, language: str, known: Iterable[str]) -> None:
        super().__init__(
            f"The model has no class names in '{language}'. Languages: {', '.join(known)}."
        )


class ModelNotFound(errors.ModelNotFound):
    """No model by that tag."""

    code = "model_not_found"
    status = 404

    def __init__(self, tag: str | None, known: Iterable[str]) -> None:
        names = ", ".join(known)
        wanted = (
            f"Model {_shortened(tag)} is not there."
            if tag is not None
            else "The model store is empty."
        )
        advice = (
            f"There are: {names}."
            if names
            else "Train one first: loupe train --dataset fashion-mnist"
        )
        super().__init__(f"{wanted} {advice}")


class LabelNotFound(ModelNotFound):
    """No model by that label."""

    code = "label_not_found"

    def __init__(self, tag: str, deleted: str | None, known: Iterable[str]) -> None:
        name, _, label = tag.partition(":")
        problem = (
            f"points at {deleted}, which is not in the store any more"
            if deleted
            else "has never been given"
        )
        versions = ", ".join(known)
        advice = (
            f"Promote one of {versions}: loupe models promote TAG"
            if versions
            else f"There is no model '{name}'."
        )
        Exception.__init__(
            self, f"Model '{tag}' is not there: the label '{label}' of '{name}' {problem}. {advice}"
        )


class ModelCorrupted(errors.ModelCorrupted):
    """A stored model whose files are not those that were saved."""

    code = "model_corrupted"

    def __init__(self, tag: str, file: str, problem: str) -> None:
        super().__init__(
            f"Model '{tag}' cannot be trusted: {file} {problem}. Delete it from the store and train again."
        )


class StoreUnwritable(errors.LoupeError):
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


class NotBetter(errors.LoupeError):
    """A model to be promoted that is no better than the one in production."""

    code = "not_better"

    def __init__(
        self, tag: str, accuracy: float, production: str, production_accuracy: float
    ) -> None:
        below = production_accuracy - accuracy
        super().__init__(
            f"Expected a test accuracy above {_fraction(production_accuracy)}, that of {production} in production. "
            f"Received: {tag} with {_fraction(accuracy)}, {f'{_fraction(below)} below' if below else 'no better'}, "
            f"on the same test set. Promote it all the same: loupe models promote {tag} --force"
        )


class NotComparable(errors.LoupeError):
    """A model to be promoted that was measured on other images than the one in production."""

    code = "not_comparable"

    def __init__(
        self, tag: str, accuracy: float, production: str, production_accuracy: float
    ) -> None:
        super().__init__(
            f"Expected the test set that {production} in production was measured on. Received: {tag}, measured on another: "
            f"its test accuracy of {_fraction(accuracy)} cannot be compared with {_fraction(production_accuracy)}. "
            f"Promote it all the same: loupe models promote {tag} --force"
        )


class NothingToRollBack(errors.LoupeError):
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
        super().__init__(
            f"Expected the name of a model that had another version in production. Received: {received}."
        )


class VersionNeeded(errors.LoupeError):
    """A name where one version of it must be meant."""

    code = "version_needed"
    exit_code = 2

    def __init__(self, tag: str) -> None:
        super().__init__(
            f"Expected one version, as NAME:VERSION. Received: '{tag}'. `loupe models` lists the versions there are."
        )


class LabelInUse(errors.LoupeError):
    """A model to be deleted that a label points at."""

    code = "label_in_use"

    def __init__(self, tag: str, label: str, others: Iterable[str]) -> None:
        versions = ", ".join(others)
        advice = (
            f"Promote one of {versions} first: loupe models promote TAG"
            if versions
            else f"It is the only version; to be rid of it all the same: bentoml models delete {tag}"
        )
        super().__init__(
            f"Expected a model without a label. Received: {tag}, which is '{label}'. {advice}"
        )


class NotConfirmed(errors.LoupeError):
    """Something that cannot be undone, where nobody can be asked."""

    code = "not_confirmed"
    exit_code = 2

    def __init__(self, action: str) -> None:
        super().__init__(
            f"Expected --yes to {action} where no terminal is there to ask. Nothing was done."
        )


class ReportNotFound(errors.LoupeError):
    """A stored model without a report."""

    code = "report_not_found"
    status = 404

    def __init__(self, tag: str, file: str) -> None:
        super().__init__(
            f"Expected {file} in the folder of {tag}. Received: none; it was saved without a report. "
            "Models trained now have one: loupe train"
        )


class EngineUnavailable(errors.LoupeError):
    """The chosen engine is not installed."""

    code = "engine_unavailable"

    def __init__(self, engine: str, extra: str) -> None:
        super().__init__(
            f"The engine '{engine}' is not installed. Install it: pip install 'loupe[{extra}]'"
        )


class InvalidAddress(errors.LoupeError):
    """An address that no service can have."""

    code = "invalid_address"
    exit_code = 2

    def __init__(self, url: str) -> None:
        super().__init__(f"Expected the service's address, as http://HOST:PORT. Received: '{url}'.")


class InvalidApiKey(errors.LoupeError):
    """An API key that no header can carry; the message does not show it."""

    code = "invalid_api_key"
    exit_code = 2

    def __init__(self, received: str) -> None:
        super().__init__(
            f"Expected an API key of printable ASCII characters without spaces. Received: {received}."
        )


class ServiceUnreachable(errors.ServiceUnreachable):
    """No answer from where the service should be."""

    code = "service_unreachable"
    status = 503

    def __init__(self, url: str, problem: str) -> None:
        super().__init__(
            f"Expected the service at {url}. Received: {problem}. Start it: loupe serve"
        )


class RequestRefused(errors.RequestRefused):
    """The service's own error; `code`, `status` and `message` are what it said."""

    code = "request_refused"

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message, code=code, status=status)


class UnexpectedAnswer(errors.UnexpectedAnswer):
    """An answer that the service does not give."""

    code = "unexpected_answer"
    status = 502

    def __init__(self, url: str, received: str) -> None:
        super().__init__(f"Expected an answer of Loupe's service from {url}. Received: {received}.")


class InvalidSetting(errors.InvalidSetting):
    """An environment variable or option with a value it cannot have."""

    code = "invalid_setting"

    def __init__(self, problems: Mapping[str, tuple[str, str]]) -> None:
        super().__init__(
            "; ".join(
                f"{name} has value {value!r}: {expected}"
                for name, (value, expected) in problems.items()
            )
        )


class AddressInUse(errors.LoupeError):
    """A program cannot listen where it should."""

    code = "address_in_use"

    def __init__(self, host: str, port: int, problem: str, setting: str) -> None:
        super().__init__(
            f"Expected {host}:{port} to be free to listen on. Received: {problem}. Choose another: {setting}."
        )


class HostUnknown(errors.LoupeError):
    """A program cannot listen at an address, since this machine does not have it."""

    code = "host_unknown"

    def __init__(self, host: str, problem: str) -> None:
        super().__init__(
            f"Expected an address of this machine to listen on. Received: '{host}' ({problem}). Choose another: --host or LOUPE_HOST."
        )


class ProgramFailed(errors.ProgramFailed):
    """A process that Loupe started ended when it should not have."""

    code = "program_failed"

    def __init__(self, program: str, problem: str, output: str = "") -> None:
        super().__init__(
            f"{program} {problem}." + (f" Its last words:\n{output}" if output else "")
        )


class RedisUnavailable(errors.RedisUnavailable):
    """No Redis where one should be."""

    code = "redis_unavailable"
    status = 503

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"Expected a Redis at {where}. Received: {problem}.")


class JobFailed(errors.JobFailed):
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
