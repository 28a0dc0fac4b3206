"""What the processes of one worker share."""

import os

import pytest

from loupe.settings import Settings
from worker.supervisor import worker_variables


def test_the_processes_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    threads = [
        worker_variables(Settings(), processes, 0)["LOUPE_THREADS"] for processes in (2, 3, 8, 20)
    ]

    assert threads == ["4", "2", "1", "1"]


def test_the_threads_of_each_process_can_be_chosen() -> None:
    assert worker_variables(Settings(threads=3), 8, 0)["LOUPE_THREADS"] == "3"


def test_each_process_has_a_port_for_its_metrics() -> None:
    settings = Settings(worker_metrics_port=9100)

    assert [
        worker_variables(settings, 2, number)["LOUPE_WORKER_METRICS_PORT"] for number in (0, 1)
    ] == ["9100", "9101"]
    assert "LOUPE_WORKER_METRICS_PORT" not in worker_variables(Settings(), 2, 1)
