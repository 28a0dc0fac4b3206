"""The search for the record that makes a shard fail."""

from hypothesis import given
from hypothesis import strategies as st

from worker.queue.steps import Probe, Shard
from worker.scoring.bisection import MAX_POISONED, after_failure, after_success, probed


def searched(records: int, poisonous: set[int]) -> tuple[Shard | None, list[str]]:
    """Search for bad records; return the final shard and the names of all steps."""
    step: Shard | Probe | None = Shard(7, 100, 100 + records)
    names = []
    while step is not None:
        names.append(step.name)
        shard = step.shard if isinstance(step, Probe) else step
        span = range(*probed(step)) if isinstance(step, Probe) else range(records)
        tried = set(span) - set(shard.poisoned)
        if tried & poisonous:
            step = after_failure(step, "it was too much")
        elif isinstance(step, Probe):
            step = after_success(step)
        else:
            return step, names
    return None, names


@given(
    st.integers(1, 5000).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), max_size=MAX_POISONED))
    )
)
def test_all_records_that_make_it_fail_are_found_and_no_others(about: tuple[int, set[int]]) -> None:
    records, poisonous = about
    shard, names = searched(records, poisonous)

    assert shard is not None
    assert set(shard.poisoned) == poisonous
    assert (shard.index, shard.start, shard.stop) == (7, 100, 100 + records)
    assert len(set(names)) == len(names) <= 1 + len(poisonous) * (2 + records.bit_length())


def test_a_shard_of_too_many_such_records_is_given_up() -> None:
    shard, _ = searched(100, set(range(MAX_POISONED + 1)))

    assert shard is None


def test_shard_that_fails_without_a_bad_record_is_given_up() -> None:
    step = after_failure(Shard(0, 0, 9), "out of memory")
    while isinstance(step, Probe):
        step = after_success(step)

    assert step is not None
    assert (step.name, step.cleared, step.poisoned) == ("shard-0+1", True, ())
    assert after_failure(step, "out of memory") is None
