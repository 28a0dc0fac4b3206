"""The errors as a family: one shape, one code each, and the tree that the module draws."""

import re
from collections.abc import Iterator

import pytest

from loupe import errors
from loupe.errors import LoupeError


def descendants(error: type[LoupeError]) -> Iterator[type[LoupeError]]:
    for child in error.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from descendants(child)


ALL = sorted(descendants(LoupeError), key=lambda error: error.__name__)


@pytest.mark.parametrize("error", ALL)
def test_an_error_s_code_is_its_name(error: type[LoupeError]) -> None:
    assert error.code == re.sub(r"(?<!^)([A-Z])", r"_\1", error.__name__).lower()


def test_the_tree_in_the_module_is_the_tree_there_is() -> None:
    lines = re.findall(r"^ +([│ ]*)[├└]── (\w+) *(\d{3})?$", str(errors.__doc__), re.MULTILINE)

    assert sorted(name for _, name, _ in lines) == [error.__name__ for error in ALL]
    parent = "LoupeError"
    for bars, name, status in lines:
        error = getattr(errors, name)
        if bars:
            assert error.__bases__ == (getattr(errors, parent),)
        else:
            assert error.__bases__ == (LoupeError,)
            parent = name
        assert not status or error.status == int(status), name


def test_an_error_is_told_in_one_shape() -> None:
    assert errors.ModelNotFound("birds", ["digits:1", "shapes:2"]).to_json() == {
        "error": "Model 'birds' is not there. There are: digits:1, shapes:2.",
        "code": "model_not_found",
    }


def test_an_empty_store_is_told_with_what_to_do() -> None:
    assert errors.ModelNotFound(None, []).message == (
        "The model store is empty. Train one first: loupe train --dataset fashion-mnist"
    )
