"""Find the record that makes a shard fail by scoring halves of the shard, each as its own step.

A step contains everything that is known so far, so any worker can continue the search.
"""

from dataclasses import replace

from worker.queue.steps import Probe, Shard

PROBE_ATTEMPTS = 2  # the first worker may have died of something else
MAX_POISONED = 8  # with more bad records in one shard, the records are not the cause


def after_failure(step: Shard | Probe, reason: str) -> Shard | Probe | None:
    """Return the step that follows the last failed attempt, or `None` if no record is to blame."""
    if isinstance(step, Shard):
        if step.cleared or len(step.poisoned) >= MAX_POISONED:
            return None
        return Probe(replace(step, reason=reason), (0, step.stop - step.start))
    first, stop = probed(step)
    shard = replace(step.shard, reason=reason)
    if stop - first > 1:
        return Probe(shard, (first, stop))
    poisoned = tuple(sorted([*shard.poisoned, first]))
    return replace(shard, generation=shard.generation + 1, poisoned=poisoned, cleared=False)


def after_success(step: Probe) -> Shard | Probe:
    """Return the step that follows a probe whose records were all scored."""
    _, stop = probed(step)
    last = step.suspects[1]
    if stop < last:
        return replace(step, suspects=(stop, last))
    return replace(step.shard, generation=step.shard.generation + 1, cleared=True)


def probed(step: Probe) -> tuple[int, int]:
    """Return the half-open range of records that the probe scores: half of its suspects."""
    first, stop = step.suspects
    return first, first + max((stop - first) // 2, 1)
