"""Which record makes a shard fail: halves of the shard are tried by themselves, as steps of their own, until one record is left.

A step holds all that is known so far, so that any worker can go on with it. Records are counted from the start of the shard.
"""

from typing import cast

from worker.queue.jobs import Step

PROBE_ATTEMPTS = 2  # a worker may die of something else
MOST_POISONED = (
    8  # records of one shard; of one that has more, it is not the records that are at fault
)


def after_failure(step: Step, reason: str) -> Step | None:
    """What to do once a shard, or a probe of some of its records, has failed for good; nothing, if no record can be blamed for it."""
    if step["kind"] == "shard":
        if step.get("cleared") or len(step.get("poisoned", [])) >= MOST_POISONED:
            return None
        return _probe(step, 0, step["stop"] - step["start"], reason)
    first, stop = probed(step)
    if stop - first > 1:
        return _probe(step, first, stop, reason)
    return _shard(step, [*step.get("poisoned", []), first], cleared=False)


def after_success(step: Step) -> Step:
    """What to do once a probe has found nothing wrong with its records."""
    _, stop = probed(step)
    last = step["suspects"][1]
    return (
        _probe(step, stop, last, step["reason"])
        if stop < last
        else _shard(step, step.get("poisoned", []), cleared=True)
    )


def probed(step: Step) -> tuple[int, int]:
    """The records that a probe tries, the first and the one after the last: half of the suspects."""
    first, stop = step["suspects"]
    return first, first + max((stop - first) // 2, 1)


def _probe(step: Step, first: int, stop: int, reason: str) -> Step:
    name = f"probe-{step['index']}+{step.get('generation', 0)}-{first}-{stop}"
    return cast(
        Step, {**step, "name": name, "kind": "probe", "suspects": [first, stop], "reason": reason}
    )


def _shard(step: Step, poisoned: list[int], *, cleared: bool) -> Step:
    """The shard once more, without the records that cannot be scored."""
    generation = step.get("generation", 0) + 1
    about = {
        "name": f"shard-{step['index']}+{generation}",
        "kind": "shard",
        "generation": generation,
    }
    return cast(Step, {**step, **about, "poisoned": sorted(poisoned), "cleared": cleared})
