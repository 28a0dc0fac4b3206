"""Shares of scarce resources."""

import pytest
from starlette.requests import Request
from starlette.responses import Response

from loupe.errors import TooManyRequests
from service.http.context import caller_of, context_of
from service.http.shares import Shares, shared
from service.jobs.transfers import TransferLimit, streamed


def test_caller_gets_its_share_and_leaves_the_rest_to_others() -> None:
    shares = Shares(total=5, share=2)
    taken = [shares.take(caller) for caller in ("a", "a", "a", "b", "b", "c", "d")]
    assert taken == [True, True, False, True, True, True, False]

    shares.give_back("a")
    assert [shares.take("b"), shares.take("d"), shares.take("a")] == [False, True, False]


def test_caller_may_use_all_of_a_limit_and_leaves_half_as_much_to_others() -> None:
    shares = shared(4)
    taken = [shares.take(caller) for caller in "aaaaabbb"]

    assert taken == [True, True, True, True, False, True, True, False]


def test_what_exceeds_a_share_costs_nobody_else() -> None:
    shares = shared(2)
    for _ in range(5):
        shares.add("a")
    assert [shares.has_room("a"), shares.take("b"), shares.take("c")] == [False, True, False]

    for _ in range(4):
        shares.give_back("a")
    assert [shares.take("a"), shares.held] == [True, 3]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("/run/socket", "10.0.0.1", False),
    ],
)
def test_caller_without_a_key_is_its_address(first: str, second: str, same: bool) -> None:
    one, other = ({"headers": [], "client": (address, 1)} for address in (first, second))

    assert (caller_of(one) == caller_of(other)) is same


def test_caller_with_a_key_is_the_key_at_every_address() -> None:
    scopes = [{"headers": [], "client": (address, 1)} for address in ("10.0.0.1", "10.0.0.2")]
    for scope in scopes:
        context_of(scope).key_name = "alice"

    assert [caller_of(scope) for scope in scopes] == ["alice", "alice"]
    assert caller_of({"headers": [], "client": None}) == ""


def test_caller_with_many_streams_does_not_lock_others_out() -> None:
    limit = TransferLimit("streams", limit=5, share=2)

    def start(address: str) -> Response:
        scope = {"type": "http", "headers": [], "method": "GET", "client": (address, 1)}
        return streamed(Request(scope), [], limit, "text/plain")

    running = [start("10.0.0.1"), start("10.0.0.1")]
    with pytest.raises(TooManyRequests) as refused:
        start("10.0.0.1")
    assert refused.value.code == "too_many_transfers"
    running.append(start("10.0.0.2"))
