"""The check at the end of a test session."""

import subprocess
import uuid

import pytest

from tests.support.leftovers import VARIABLE, end_leftovers


def test_programs_that_are_left_running_are_named_and_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, uuid.uuid4().hex)
    ended = subprocess.Popen(["/bin/true"])
    left = subprocess.Popen(["/bin/sleep", "1000"])

    assert end_leftovers(patience_seconds=0.2) == [f"{left.pid}: /bin/sleep 1000"]
    assert left.wait(50) < 0
    assert ended.wait(50) == 0
    assert end_leftovers(patience_seconds=0) == []
