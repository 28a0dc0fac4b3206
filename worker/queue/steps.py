"""Steps: the messages in a job's stream. JSON, encoded and decoded only here."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal, TypeAlias

Kind = Literal["plan", "shard", "probe", "finish"]


@dataclass(frozen=True)
class Plan:
    """Count the source's records and cut them into shards."""

    kind: ClassVar[Kind] = "plan"
    name: ClassVar[str] = "plan"


@dataclass(frozen=True)
class Shard:
    """Score some records of the source.

    Attributes:
        index: Number of the shard.
        start: First record in the source.
        stop: One past the last record.
        offset: Byte in the plan index where the shard's entries begin.
        generation: How often records of the shard were found to be bad and left out.
        poisoned: Records to leave out, counted from the shard's start; each becomes an error.
        cleared: Whether every record was scored on its own without failing.
        reason: Why the last generation failed.
    """

    kind: ClassVar[Kind] = "shard"

    index: int
    start: int
    stop: int
    offset: int = 0
    generation: int = 0
    poisoned: tuple[int, ...] = ()
    cleared: bool = False
    reason: str = ""

    @property
    def name(self) -> str:
        """The name, unique among the steps of the job."""
        return f"shard-{self.index}" + (f"+{self.generation}" if self.generation else "")


@dataclass(frozen=True)
class Probe:
    """Score half of the suspects, to find the record that makes their shard fail.

    Attributes:
        shard: The shard that failed.
        suspects: Half-open range `[start, stop)` that contains the bad record, counted from the
            shard's start.
    """

    kind: ClassVar[Kind] = "probe"

    shard: Shard
    suspects: tuple[int, int]

    @property
    def name(self) -> str:
        """The name, unique among the steps of the job."""
        first, stop = self.suspects
        return f"probe-{self.shard.index}+{self.shard.generation}-{first}-{stop}"


@dataclass(frozen=True)
class Finish:
    """Write the summary of all shards."""

    kind: ClassVar[Kind] = "finish"
    name: ClassVar[str] = "finish"


Step: TypeAlias = Plan | Shard | Probe | Finish


def without(shards: Sequence[Shard], kept: Sequence[int]) -> list[Shard]:
    """Return the shards whose parts are not kept."""
    known = frozenset(kept)
    return [shard for shard in shards if shard.index not in known]


def encode(step: Step) -> str:
    """Return the step as JSON."""
    fields = (
        asdict(step.shard) | {"suspects": step.suspects}
        if isinstance(step, Probe)
        else asdict(step)
    )
    return json.dumps({"name": step.name, "kind": step.kind, **fields})


def decode(text: str) -> Step:
    """Return the step that `encode` wrote."""
    fields = json.loads(text)
    del fields["name"]
    kind = fields.pop("kind")
    if kind == "plan":
        return Plan()
    if kind == "finish":
        return Finish()
    suspects = fields.pop("suspects", None)
    shard = Shard(**fields | {"poisoned": tuple(fields.get("poisoned", ()))})
    if kind == "probe":
        return Probe(shard, (suspects[0], suspects[1]))
    return shard
