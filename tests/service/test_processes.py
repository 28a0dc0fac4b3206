"""What each process of the service is given."""

import os

import pytest

from loupe.settings import Settings
from service.http.bodies import Bodies
from service.http.shares import part
from service.processes import variables


def test_processes_share_cores_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    assert variables(Settings(processes=3, max_requests=100, max_queued_images=30_000)) == {
        "LOUPE_PROCESSES": "3",
        "LOUPE_THREADS": "2",
        "LOUPE_MAX_REQUESTS": "34",
        "LOUPE_MAX_QUEUED_IMAGES": "10000",
    }


def test_every_process_takes_the_largest_request() -> None:
    settings = Settings(processes=64, max_images_per_request=1000)

    assert variables(settings)["LOUPE_MAX_QUEUED_IMAGES"] == "1000"
    with Bodies(settings).holding("me", settings.max_body_bytes):
        pass


@pytest.mark.parametrize(("processes", "expected"), [(1, 4), (2, 2), (3, 2), (4, 1), (64, 1)])
def test_part_of_a_limit_is_rounded_up(processes: int, expected: int) -> None:
    assert part(4, processes) == expected
