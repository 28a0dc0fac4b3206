"""Limits of API keys."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from loupe.errors import InvalidSetting, TooManyRequests
from loupe.settings import Settings
from service.key_limits import DAY_SECONDS, KeyLimit, KeyLimits, read_limits

KEYS = SecretStr(",".join(f"{name}:the-key-of-{name}-0001" for name in ("alice", "bob", "carol")))
IMAGES = 5000
# Takes images one by one until there are none left, and prints how many it got.
TAKE_ALL = """
import sys
from pathlib import Path
from loupe.errors import TooManyRequests
from service.key_limits import KeyLimit, KeyLimits

limits = KeyLimits({"alice": KeyLimit(None, int(sys.argv[2]))}, Path(sys.argv[1]))
print(flush=True)
sys.stdin.readline()
taken = 0
try:
    while True:
        limits.take_images("alice", 1)
        taken += 1
except TooManyRequests:
    print(taken)
"""


class Clock:
    """A clock that a test sets; it starts at midnight UTC."""

    def __init__(self) -> None:
        self.now = 20_000.0 * DAY_SECONDS

    def __call__(self) -> float:
        return self.now


def refusal(limits: KeyLimits, images: int | None = None) -> tuple[str, int] | None:
    """Return code and `Retry-After` of a request of alice, or `None` if it is not refused."""
    try:
        limits.take_request("alice") if images is None else limits.take_images("alice", images)
    except TooManyRequests as error:
        return error.code, error.retry_after_seconds
    return None


def test_there_are_no_limits_by_default() -> None:
    assert read_limits(Settings(api_keys=KEYS)) == {}


def test_limits_are_read_by_name() -> None:
    text = "alice:2.5/s+50000/day, bob:9/day,*:100/s"
    assert read_limits(Settings(api_keys=KEYS, key_limits=text)) == {
        "alice": KeyLimit(2.5, 50_000),
        "bob": KeyLimit(None, 9),
        "carol": KeyLimit(100, None),
    }


@pytest.mark.parametrize(
    "text",
    [
        *("alice", "alice:", "alice:10", "alice:10/min", "alice:0/s", "alice:0.0/s", "alice:-1/s"),
        *("alice:1/s+", "alice:1/s2/day", "alice:+2/day", "alice:1/s+1/s", "alice:1.5/day"),
        *("alice:1/s,alice:2/s", "dave:1/s", "a b:1/s", "alice:1/s,"),
    ],
)
def test_invalid_limits_are_reported(text: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        read_limits(Settings(api_keys=KEYS, key_limits=text))
    assert "LOUPE_KEY_LIMITS" in refused.value.message


def test_limits_of_a_service_without_keys_are_reported() -> None:
    with pytest.raises(InvalidSetting, match="'alice'"):
        read_limits(Settings(key_limits="alice:1/s"))


def test_key_may_send_the_requests_of_a_second_at_once_and_then_at_its_rate() -> None:
    clock = Clock()
    limits = KeyLimits({"alice": KeyLimit(4.0)}, clock=clock)

    assert [refusal(limits) for _ in range(5)] == [*[None] * 4, ("rate_limited", 1)]
    clock.now += 0.25
    assert [refusal(limits) for _ in range(2)] == [None, ("rate_limited", 1)]
    clock.now += 60
    assert [refusal(limits) for _ in range(5)] == [*[None] * 4, ("rate_limited", 1)]
    limits.take_request("bob")


def test_key_may_send_one_request_in_many_seconds() -> None:
    clock = Clock()
    limits = KeyLimits({"alice": KeyLimit(0.1)}, clock=clock)

    assert [refusal(limits) for _ in range(2)] == [None, ("rate_limited", 10)]
    clock.now += 7.5
    assert refusal(limits) == ("rate_limited", 3)
    clock.now += 2.5
    assert refusal(limits) is None


def test_clock_that_is_set_back_locks_no_key_out() -> None:
    clock = Clock()
    limits = KeyLimits({"alice": KeyLimit(1.0, 1)}, clock=clock)
    assert (refusal(limits), refusal(limits, 1)) == (None, None)

    clock.now -= 10 * DAY_SECONDS
    assert [refusal(limits) for _ in range(2)] == [None, ("rate_limited", 1)]
    assert refusal(limits, 1) is None


def test_images_of_a_day_are_limited_until_midnight() -> None:
    clock = Clock()
    limits = KeyLimits({"alice": KeyLimit(None, 10)}, clock=clock)
    clock.now += DAY_SECONDS - 100

    assert refusal(limits, 6) is None
    assert refusal(limits, 5) == ("quota_exceeded", 100)
    assert refusal(limits, 4) is None
    assert refusal(limits, 0) == ("quota_exceeded", 100)
    limits.give_back("alice", 1)
    assert refusal(limits, 0) is None
    (limit, used) = limits.metrics()
    assert [sample.value for sample in (*limit.samples, *used.samples)] == [10, 9]
    clock.now += 100
    assert refusal(limits, 10) is None


def test_processes_share_the_limits_exactly(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKE_ALL, str(tmp_path), str(IMAGES)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()  # it has started
    taken = [int(process.communicate("\n")[0]) for process in processes]

    assert sum(taken) == IMAGES
    (_, used) = KeyLimits({"alice": KeyLimit(None, IMAGES)}, tmp_path).metrics()
    assert [sample.value for sample in used.samples] == [IMAGES]
