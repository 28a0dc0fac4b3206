"""The errors: one shape, and a stable code for each condition."""

from loupe.errors import Conflict, LoupeError, NotFound


def test_error_is_reported_as_message_and_code() -> None:
    error = NotFound("No job has the id 'x'.", code="job_not_found")

    assert error.to_json() == {"error": "No job has the id 'x'.", "code": "job_not_found"}
    assert error.status == 404


def test_each_class_has_a_default_code() -> None:
    assert Conflict("The job is done.").code == "conflict"
    assert LoupeError("?").code == "internal_error"


def test_error_names_the_item_it_is_about() -> None:
    assert LoupeError("No such file.").at("a.png").message == "a.png: No such file."
