"""Steps as JSON: workers of other releases read them too."""

import json

import pytest

from worker.queue.steps import Finish, Plan, Probe, Shard, Step, decode, encode

SHARD = Shard(7, 70, 80, offset=123, generation=2, poisoned=(1, 3), reason="too grey")


@pytest.mark.parametrize(
    "step", [Plan(), Shard(0, 0, 10), SHARD, Probe(SHARD, (4, 8)), Finish()], ids=repr
)
def test_a_step_survives_json(step: Step) -> None:
    assert decode(encode(step)) == step
    assert json.loads(encode(step))["name"] == step.name


def test_names_differ_by_generation_and_range() -> None:
    names = [step.name for step in (Shard(7, 70, 80), SHARD, Probe(SHARD, (4, 8)))]

    assert names == ["shard-7", "shard-7+2", "probe-7+2-4-8"]


def test_the_format_is_that_of_earlier_releases() -> None:
    earlier = '{"name": "shard-3", "kind": "shard", "index": 3, "start": 30, "stop": 40}'

    assert decode(earlier) == Shard(3, 30, 40)
    assert encode(Finish()) == '{"name": "finish", "kind": "finish"}'
