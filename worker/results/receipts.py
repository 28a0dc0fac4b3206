"""Receipts: for each part a small file beside it, written last, that says what the part is of. They let a job go on whose queue is lost."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from worker.results.outputs import publish, receipt_name
from worker.results.statistics import StepStatistics
from worker.storage import AnyPath

CHUNK_BYTES = 2**20  # of a part, read at a time

PLAN = "_part-plan.json"  # beside the receipts, and gone with them


@dataclass(frozen=True)
class Receipt:
    """What a part is of, and what is in its files.

    Attributes:
        fingerprint: Of the job's request and the state of the source.
        done: Images scored.
        failed: Records that could not be.
        digests: SHA-256 of each file of the part, by its name.
        figures: Who made it, in which time, and some of its images.
    """

    fingerprint: str
    done: int
    failed: int
    digests: dict[str, str]
    figures: StepStatistics = field(default_factory=StepStatistics)


def write_receipt(
    folder: AnyPath,
    shard: int,
    shards: int,
    files: Sequence[str],
    *,
    fingerprint: str,
    done: int,
    failed: int,
    figures: StepStatistics,
) -> None:
    """Vouch for a part that is written.

    Args:
        folder: Of the job.
        shard: Number of the shard.
        shards: How many there are.
        files: Names of the part's files.
        fingerprint: See `Request.fingerprint`.
        done: Images scored.
        failed: Records that could not be.
        figures: Of the shard.
    """
    receipt = Receipt(
        fingerprint, done, failed, {name: _digest(folder / name) for name in files}, figures
    )
    with publish(folder / receipt_name(shard, shards)) as path:
        path.write_text(json.dumps(asdict(receipt)), encoding="utf-8")


def write_plan_statistics(folder: AnyPath, figures: StepStatistics) -> None:
    """Keep what is to be told of the plan."""
    with publish(folder / PLAN) as path:
        path.write_text(json.dumps(asdict(figures)), encoding="utf-8")


def total_statistics(folder: AnyPath, shards: Sequence[int], of: int) -> StepStatistics:
    """The figures of the plan and of these shards together, each counted once, as far as they are there.

    Args:
        folder: Of the job.
        shards: Numbers of the shards that count.
        of: How many shards there are.
    """
    together = StepStatistics()
    with suppress(FileNotFoundError):
        together += StepStatistics.from_json(
            json.loads((folder / PLAN).read_text(encoding="utf-8"))
        )
    found = _receipts(folder)
    for shard in shards:
        receipt = (
            _read(folder / receipt_name(shard, of)) if receipt_name(shard, of) in found else None
        )
        if receipt is not None:
            together += receipt.figures
    return together


def valid_receipts(folder: AnyPath, shards: int, fingerprint: str) -> Iterator[tuple[int, Receipt]]:
    """Number and receipt of each shard whose part is of this fingerprint, and whose files are those that were written."""
    found = _receipts(folder)
    for shard in range(shards):
        receipt = (
            _read(folder / receipt_name(shard, shards))
            if receipt_name(shard, shards) in found
            else None
        )
        if (
            receipt is not None
            and receipt.fingerprint == fingerprint
            and _is_whole(folder, receipt)
        ):
            yield shard, receipt


def _receipts(folder: AnyPath) -> set[str]:
    """The names of those there are, asked for at once."""
    return {path.name for path in folder.glob("_part-*.json")}


def _read(path: AnyPath) -> Receipt | None:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        return Receipt(**about | {"figures": StepStatistics.from_json(about["figures"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # damaged: the shard is scored again
        return None


def _is_whole(folder: AnyPath, receipt: Receipt) -> bool:
    return all(
        (folder / name).is_file() and _digest(folder / name) == digest
        for name, digest in receipt.digests.items()
    )


def _digest(file: AnyPath) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
