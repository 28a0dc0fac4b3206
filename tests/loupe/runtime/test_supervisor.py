"""Child processes that are kept running."""

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from loupe.errors import ProgramFailed
from loupe.runtime import supervisor
from loupe.runtime.supervisor import Child, Supervisor
from tests.support.programs import until

WAIT = "import signal; signal.sigwait({signal.SIGTERM})"


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "RESTART_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.01)


def child(program: str, name: str = "child", arguments: Sequence[object] = ()) -> Child:
    return Child(name, [sys.executable, "-S", "-c", program, *map(str, arguments)], {})


def test_child_that_dies_whenever_it_starts_ends_everything_with_an_error() -> None:
    deaths: list[int] = []
    keeping = Supervisor(threading.Event(), 5, max_short_lives=3, on_death=deaths.append)

    with pytest.raises(ProgramFailed, match=r"bad died 3 times .* exit code 7"):
        keeping.run([child(WAIT, "good"), child("raise SystemExit(7)", "bad")])
    assert deaths == [1, 1, 1]


def test_child_that_dies_is_replaced_until_it_is_stopped(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    program = "import signal, sys; file = open(sys.argv[1], 'a'); file.write('1'); file.close(); "
    program += "len(open(sys.argv[1]).read()) < 3 and sys.exit(1); "
    program += "signal.sigwait({signal.SIGTERM})"
    stopping = threading.Event()
    kept = child(program, arguments=[lives])
    running = threading.Thread(target=Supervisor(stopping, 5).run, args=([kept],))
    running.start()
    until(lambda: lives.exists() and lives.read_text() == "111")
    stopping.set()
    running.join()

    assert lives.read_text() == "111"


def test_child_that_ignores_the_stop_is_killed_and_reported(tmp_path: Path) -> None:
    stopping, ready = threading.Event(), tmp_path / "ready"
    stubborn = (
        f"import pathlib, signal; signal.pthread_sigmask(0, {{15}}); "
        f"pathlib.Path({str(ready)!r}).touch(); signal.sigwait({{2}})"
    )

    def stop() -> None:
        until(ready.exists)
        stopping.set()

    threading.Thread(target=stop).start()
    with pytest.raises(ProgramFailed, match=f"exit code {-signal.SIGKILL}"):
        Supervisor(stopping, 0.2).run([child(stubborn)])
