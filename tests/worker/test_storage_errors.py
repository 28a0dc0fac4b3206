"""Errors of object stores and web servers as Loupe's."""

import importlib
import importlib.util
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import botocore.exceptions
import pytest
from s3fs.utils import FileExpired

from loupe.errors import (
    InvalidUrl,
    LoupeError,
    SourceChanged,
    StorageRefused,
    StorageUnavailable,
)
from worker import storage_errors
from worker.storage_errors import translate_errors

URL = "s3://bucket/a.png"
REQUEST = cast("Any", SimpleNamespace(real_url=URL))


def http_error(status: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(REQUEST, (), status=status, message="said the server")


def not_found(cause: Exception) -> FileNotFoundError:
    """Return what fsspec raises for a failed request."""
    error = FileNotFoundError(URL)
    error.__cause__ = cause
    return error


def precondition_failed() -> OSError:
    """Return what s3fs raises for a file that had to be new."""
    response: Any = {"Error": {"Code": "PreconditionFailed"}}
    error = OSError("At least one of the pre-conditions you specified did not hold")
    error.__cause__ = botocore.exceptions.ClientError(response, "PutObject")
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(URL), FileNotFoundError),
        (not_found(http_error(404)), FileNotFoundError),
        (not_found(http_error(410)), FileNotFoundError),
        (not_found(http_error(403)), StorageRefused),
        (not_found(http_error(500)), StorageUnavailable),
        (not_found(aiohttp.ClientConnectionError("refused")), StorageUnavailable),
        (http_error(401), StorageRefused),
        (http_error(429), StorageUnavailable),
        (FileExistsError(URL), FileExistsError),
        (precondition_failed(), FileExistsError),
        (PermissionError("Access Denied"), StorageRefused),
        (botocore.exceptions.NoCredentialsError(), StorageRefused),
        (botocore.exceptions.ProfileNotFound(profile="x"), StorageRefused),
        (botocore.exceptions.EndpointConnectionError(endpoint_url=URL), StorageUnavailable),
        (botocore.exceptions.ParamValidationError(report="bad name"), InvalidUrl),
        (FileExpired(URL, "tag"), SourceChanged),
        (TimeoutError(), StorageUnavailable),
        (OSError("connection reset"), StorageUnavailable),
        (ValueError("a bug"), ValueError),
    ],
    ids=lambda value: repr(value) if isinstance(value, Exception) else value.__name__,
)
def test_error_of_a_store_is_translated(error: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as raised, translate_errors(URL):
        raise error

    assert type(raised.value) is expected
    if issubclass(expected, LoupeError):
        assert URL in str(raised.value)
        assert raised.value.__cause__ is error


def test_all_error_classes_exist_in_the_installed_packages() -> None:
    tables = [table for name, table in vars(storage_errors).items() if name.endswith("_ERRORS")]
    classes = {(module, name) for table in tables for module in table for name in table[module]}
    installed = {module.partition(".")[0] for module, _ in classes}
    installed = {name for name in installed if importlib.util.find_spec(name)}
    assert {"aiohttp", "botocore", "s3fs"} <= installed
    for module, name in classes:
        if module.partition(".")[0] in installed & {"aiohttp", "botocore", "s3fs"}:
            assert issubclass(getattr(importlib.import_module(module), name), Exception)
