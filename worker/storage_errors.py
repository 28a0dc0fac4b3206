"""Translation of the errors of object stores to Loupe's."""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

from loupe.errors import InvalidUrl, LoupeError, SourceChanged, StorageRefused, StorageUnavailable

# Error classes by module. Only a package that is loaded can raise, so none is imported for this.
CREDENTIAL_ERRORS = {
    "azure.core.exceptions": ["ClientAuthenticationError"],
    "botocore.exceptions": [
        "CredentialRetrievalError",
        "LoginError",
        "NoAuthTokenError",
        "NoCredentialsError",
        "PartialCredentialsError",
        "ProfileNotFound",
        "SSOError",
        "TokenRetrievalError",
        "UnknownCredentialError",
        "UnknownTokenProviderError",
    ],
    "google.auth.exceptions": ["GoogleAuthError"],
}
HTTP_ERRORS = {"aiohttp": ["ClientError"]}
NAME_ERRORS = {"botocore.exceptions": ["ParamValidationError"]}  # no bucket can have the name
VERSION_ERRORS = {"s3fs.utils": ["FileExpired"]}  # the object is not the one that was opened
STORE_ERRORS = HTTP_ERRORS | {
    "azure.core.exceptions": ["AzureError"],
    "botocore.exceptions": ["BotoCoreError", "ClientError"],
    "gcsfs.retry": ["HttpError"],
}


@contextmanager
def translate_errors(url: str) -> Iterator[None]:
    """Raise a store's errors as Loupe's; `FileNotFoundError` and `FileExistsError` stay."""
    try:
        yield
    except Exception as error:
        translated = _translate(error, url)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception, url: str) -> Exception | None:
    """Return the error to raise instead; `None` if this one does not come from a store."""
    cause = error.__cause__
    if isinstance(cause, LoupeError):  # of `worker.https_client`
        return cause
    if isinstance(error, FileNotFoundError) and isinstance(cause, _classes(HTTP_ERRORS)):
        error = cause  # fsspec reports every failed request as not found
    status = getattr(error, "status", None) if isinstance(error, _classes(HTTP_ERRORS)) else None
    if isinstance(error, FileNotFoundError) or status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
        text = _one_line(error)
        reason = text if " " in text else os.strerror(errno.ENOENT)  # or else only the path
        return FileNotFoundError(errno.ENOENT, reason, url)
    if isinstance(error, FileExistsError):
        return None
    if _is_failed_precondition(cause):  # a file that had to be new
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), url)
    return _as_loupe_error(error, status, url)


def _as_loupe_error(error: Exception, status: int | None, url: str) -> LoupeError | None:
    text = _one_line(error) or type(error).__name__
    if isinstance(error, _classes(HTTP_ERRORS)) and getattr(error, "errno", None) == errno.EACCES:
        return InvalidUrl(
            f"'{url}' leads to an address that is not public. "
            "Set LOUPE_HTTPS_PRIVATE_ADDRESSES to allow such addresses."
        )
    if isinstance(error, (PermissionError, *_classes(CREDENTIAL_ERRORS))) or status in (
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
    ):
        return StorageRefused(
            f"The credentials do not open '{url}' ({text}). Give valid ones here and to each "
            "worker; docs/scoring-reference.md shows how."
        )
    if isinstance(error, _classes(VERSION_ERRORS)):
        return SourceChanged(f"'{url}' changed while it was read. Score it again.")
    if isinstance(error, _classes(NAME_ERRORS)):
        return InvalidUrl(f"'{url}' is not a valid URL: {text}.")
    if isinstance(error, (OSError, asyncio.TimeoutError, *_classes(STORE_ERRORS))):
        return StorageUnavailable(f"The storage of '{url}' does not answer: {text}.")
    return None


def _classes(names: dict[str, list[str]]) -> tuple[type[Exception], ...]:
    """Return those of the classes whose modules are loaded."""
    return tuple(
        getattr(sys.modules[module], name)
        for module, classes in names.items()
        if module in sys.modules
        for name in classes
    )


def _is_failed_precondition(cause: BaseException | None) -> bool:
    """Return whether S3 refused to overwrite an object."""
    if not isinstance(cause, _classes({"botocore.exceptions": ["ClientError"]})):
        return False
    response: dict[str, dict[str, str]] = getattr(cause, "response", {})
    return response["Error"]["Code"] == "PreconditionFailed"


def _one_line(error: BaseException) -> str:
    """Return the message of an error on one line, without a full stop."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()).rstrip(".")
