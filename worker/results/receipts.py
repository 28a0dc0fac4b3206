"""Receipts: a small file for each part, written last, that proves the part complete.

A job whose queue is lost continues from them.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from loupe.results import receipt_name
from worker.results.statistics import StepStatistics
from worker.storage import AnyPath, open_file, read_text, write_file

CHUNK_BYTES = 2**20
PLAN = "_part-plan.json"  # statistics of the plan; removed with the receipts


@dataclass(frozen=True)
class Receipt:
    """Contents of a part.

    Attributes:
        fingerprint: Of the job's request and the revision of the source.
        done: Number of scored images.
        failed: Number of unreadable records.
        digests: SHA-256 of each file, by name.
        figures: Statistics of the shard.
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
    """Write the receipt of a part whose files are written; see `Receipt`."""
    digests = {name: _digest(folder / name) for name in files}
    receipt = Receipt(fingerprint, done, failed, digests, figures)
    write_file(folder / receipt_name(shard, shards), json.dumps(asdict(receipt)))


def write_plan_statistics(folder: AnyPath, statistics: StepStatistics) -> None:
    """Write the statistics of the plan."""
    write_file(folder / PLAN, json.dumps(asdict(statistics)))


def total_statistics(folder: AnyPath, shards: Sequence[int], of: int) -> StepStatistics:
    """Return the statistics of the plan and of these `of` all shards, as far as they are known."""
    total = StepStatistics()
    with suppress(FileNotFoundError):
        text = read_text(folder / PLAN)
        total += StepStatistics.from_json(json.loads(text))
    for _, receipt in _receipts(folder, shards, of):
        total += receipt.figures
    return total


def valid_receipts(
    folder: AnyPath, shards: Sequence[int], of: int, fingerprint: str
) -> Iterator[tuple[int, Receipt]]:
    """Yield number and receipt of those shards whose part has this fingerprint and is intact."""
    for shard, receipt in _receipts(folder, shards, of):
        if receipt.fingerprint == fingerprint and _is_intact(folder, receipt):
            yield shard, receipt


def _receipts(folder: AnyPath, shards: Sequence[int], of: int) -> Iterator[tuple[int, Receipt]]:
    """Yield the receipts of these shards without damaged ones, whose shards are scored again."""
    existing = {path.name for path in folder.glob("_part-*.json")}  # one request for all
    for shard in shards:
        name = receipt_name(shard, of)
        if name in existing:
            with suppress(FileNotFoundError, ValueError, TypeError, KeyError):
                fields = json.loads(read_text(folder / name))
                figures = StepStatistics.from_json(fields["figures"])
                yield shard, Receipt(**fields | {"figures": figures})


def _is_intact(folder: AnyPath, receipt: Receipt) -> bool:
    return all(
        (folder / name).is_file() and _digest(folder / name) == digest
        for name, digest in receipt.digests.items()
    )


def _digest(file: AnyPath) -> str:
    digest = hashlib.sha256()
    with open_file(file) as opened:
        while chunk := opened.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
