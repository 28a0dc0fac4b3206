"""The errors as a family: one shape, one code each, and the tree that the module draws."""

import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import loupe.errors
import train.errors
from loupe.errors import LoupeError, ModelNotFound

MODULES = (loupe.errors, train.errors)


def descendants(error: type[LoupeError], module: ModuleType) -> Iterator[type[LoupeError]]:
    for child in error.__subclasses__():
        if child.__module__ == module.__name__:
            yield child
            yield from descendants(child, module)


def of(module: ModuleType) -> list[type[LoupeError]]:
    return sorted(descendants(LoupeError, module), key=lambda error: error.__name__)


@pytest.mark.parametrize("error", [error for module in MODULES for error in of(module)])
def test_an_error_s_code_is_its_name(error: type[LoupeError]) -> None:
    assert error.code == re.sub(r"(?<!^)([A-Z])", r"_\1", error.__name__).lower()


@pytest.mark.parametrize("module", MODULES)
def test_the_tree_in_the_module_is_the_tree_there_is(module: ModuleType) -> None:
    lines = re.findall(r"^ +([│ ]*)[├└]── (\w+) *(\d{3})?$", str(module.__doc__), re.MULTILINE)

    assert sorted(name for _, name, _ in lines) == [error.__name__ for error in of(module)]
    parent = "LoupeError"
    for bars, name, status in lines:
        error = getattr(module, name)
        if bars:
            assert error.__bases__ == (getattr(module, parent),)
        else:
            assert error.__bases__ == (LoupeError,)
            parent = name
        assert not status or error.status == int(status), name


def test_an_error_is_told_in_one_shape() -> None:
    assert ModelNotFound("birds", ["digits:1", "shapes:2"]).to_json() == {
        "error": "Model 'birds' is not there. There are: digits:1, shapes:2.",
        "code": "model_not_found",
    }


def test_an_empty_store_is_told_with_what_to_do() -> None:
    assert ModelNotFound(None, []).message == (
        "The model store is empty. Train one first: loupe train --dataset fashion-mnist"
    )
