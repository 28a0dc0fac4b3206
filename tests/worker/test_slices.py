"""`loupe score --slice` and `--finish`: the result of the workers, without Redis."""

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from redis import Redis

from loupe.errors import Conflict, Interrupted, JobFailed, SourceChanged
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support import pictures
from tests.support.command import Ended, Loupe
from tests.support.job_requests import submit
from tests.support.programs import PATIENCE_SECONDS, environment, until
from tests.worker.conftest import IMAGES, SHARD
from worker import slices
from worker.process import running_queue
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import JobRequest
from worker.queue.submission import prepare
from worker.remote_path import RemotePath
from worker.results import claims, outputs
from worker.results.outputs import read_summary
from worker.scoring.consumer import Consumer
from worker.scoring.slices import PLAN, Slice, SliceQueue, read_plan
from worker.storage import AnyPath

SLICES = 3
Score = Callable[..., None]


def new_request(
    source: Path, output: AnyPath, model: StoredModel, options: ScoringOptions = DEFAULT_OPTIONS
) -> JobRequest:
    where = str(output)
    return prepare(lambda _: None, source, where, model.tag, SHARD, options).request


def score(
    settings: Settings,
    source: Path,
    output: AnyPath,
    model: StoredModel,
    *parts: int,
    **given: object,
) -> None:
    """Score some slices, or finish with none."""
    options = ScoringOptions.model_validate(given)
    for index in parts:
        prepared = prepare(lambda _: None, source, str(output), model.tag, SHARD, options)
        slices.score_slice(settings, prepared, Slice(index, SLICES))
    if not parts:
        prepared = prepare(lambda _: None, source, str(output), model.tag, SHARD, options)
        slices.finish(settings, prepared)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files but the summary, which has times."""
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name != claims.SUMMARY
    }


def figures(folder: Path) -> dict[str, object]:
    timed = {"started", "finished", "seconds", "images_per_second", "workers", "job"}
    return {name: value for name, value in read_summary(folder).items() if name not in timed}


@pytest.mark.parametrize("single", [False, True])
def test_slices_make_the_files_of_the_workers(
    redis: Redis,
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    single: bool,
) -> None:
    there, here = tmp_path / "redis", tmp_path / "slices"
    options = ScoringOptions(single=single, format="csv" if single else "parquet")
    submit(Jobs(redis), source, there, digits_model.tag, SHARD, options)
    worker = Claims(redis, "a", lease_seconds=30.0, max_attempts=2)
    Consumer(Jobs(redis), worker, settings).run(burst=True)

    given = {"single": single, "format": options.format}
    for index in (2, 0, 2, 1):  # in any order, and again
        score(settings, source, here, digits_model, index, **given)
    assert not (here / "_SUCCESS").exists()
    score(settings, source, here, digits_model, **given)

    expected = contents(there)
    found = contents(here)
    assert JobRequest.model_validate_json(found.pop("_SUCCESS")).output == str(here)
    del expected["_SUCCESS"]
    assert found == expected
    assert figures(here) == figures(there)
    assert figures(here)["failed"] == 1
    assert read_summary(here)["workers"] == ["slice 0/3", "slice 1/3", "slice 2/3"]


def test_slices_that_start_together_have_one_plan(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    out = tmp_path / "out"
    request = new_request(source, out, digits_model)
    queues = [SliceQueue(request, 1, Slice(index, SLICES), None) for index in range(SLICES)]

    def run(queue: SliceQueue) -> str:
        with running_queue(settings, queue):
            pass
        return queue.get(request.job_id).state

    with ThreadPoolExecutor(SLICES) as threads:
        assert list(threads.map(run, queues)) == ["done"] * SLICES
    score(settings, source, out, digits_model)
    assert pq.read_table(out).num_rows == IMAGES - 1


def test_slices_and_their_result_can_be_in_a_bucket(
    settings: Settings, source: Path, bucket: RemotePath, digits_model: StoredModel
) -> None:
    for index in range(SLICES):
        score(settings, source, bucket / "out", digits_model, index)
    score(settings, source, bucket / "out", digits_model)

    names = {path.name for path in (bucket / "out").iterdir()}
    assert names >= {"_SUCCESS", "predictions-00006-of-00007.parquet", "_summary.json"}
    assert not {name for name in names if name.startswith(("_part", "_plan", "_RUNNING"))}


KILLS_OF_A_SLICE = (
    "kill:before:worker.scoring.slices:write_file",
    "kill:after:worker.scoring.slices:_publish",
    "kill:after:worker.results.outputs:write_part",
    "kill:before:worker.results.receipts:write_file",
    "kill:after:worker.results.receipts:write_receipt",
)
KILLS_OF_THE_END = (
    "kill:after:worker.results.outputs:_merge_predictions",
    "kill:before:worker.results.outputs:_remove_leftovers",
    "kill:after:worker.results.outputs:remove",
    "kill:after:worker.results.outputs:_remove_leftovers",
    "kill:after:worker.scoring.consumer:finish_job",
)


@pytest.mark.timeout(200)  # twelve processes
def test_killed_slices_and_ends_change_nothing_when_they_run_again(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    score(settings, source, whole, digits_model, 0, 1, 2, single=True)
    score(settings, source, whole, digits_model, single=True)
    command = ["--", "score", source, "--out", out, "--single", "--model", digits_model.tag]

    def run(*arguments: object) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.support.faulty_worker", *map(str, arguments)],
            env=environment(LOUPE_SHARD_IMAGES=SHARD, LOUPE_THREADS=1),
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
        )
        assert ended.returncode == 0, ended.stderr
        kills = sum(str(each).startswith("kill") for each in arguments)
        assert ended.stderr.count("has ended with -9") == kills

    run(*KILLS_OF_A_SLICE, *command, "--slice", "1/3")
    score(settings, source, out, digits_model, 0, 2, single=True)
    run(*KILLS_OF_THE_END, *command, "--finish")
    score(settings, source, out, digits_model, 1, single=True)  # late

    expected, found = contents(whole), contents(out)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"_SUCCESS"}
    assert figures(out) == figures(whole)


def test_finish_names_the_slices_that_are_not_done(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    out = tmp_path / "out"
    with pytest.raises(Conflict) as nothing:
        score(settings, source, out, digits_model)
    assert nothing.value.code == "slices_missing"
    assert not out.exists()

    score(settings, source, out, digits_model, 1)
    with pytest.raises(Conflict, match="0/3, 2/3"):
        score(settings, source, out, digits_model)

    score(settings, source, out, digits_model, 0, 2)
    part = out / "predictions-00004-of-00007.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(Conflict, match="1/3") as damaged:
        score(settings, source, out, digits_model)
    assert damaged.value.code == "slices_missing"
    score(settings, source, out, digits_model, 1)
    score(settings, source, out, digits_model)
    assert pq.read_table(out).num_rows == IMAGES - 1


def test_late_slice_leaves_the_result_as_it_is(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
) -> None:
    out = tmp_path / "out"
    score(settings, source, out, digits_model, 0, 1, 2, single=True)
    (out / "_part-00002-of-00007.json").unlink()
    request = new_request(source, out, digits_model, ScoringOptions(single=True))
    late = SliceQueue(request, 1, Slice(2, SLICES), read_plan(request))  # lacks its first part
    score(settings, source, out, digits_model, 2, single=True)
    score(settings, source, out, digits_model, single=True)
    before = contents(out)

    with running_queue(settings, late):
        pass
    assert late.get(request.job_id).state == "done"
    (out / "_RUNNING").unlink(missing_ok=True)
    assert contents(out) == before


def test_source_that_changes_between_two_plans_is_refused(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    out = tmp_path / "out"
    request = new_request(source, out, digits_model)
    first, second = (SliceQueue(request, 1, Slice(index, SLICES), None) for index in (0, 1))
    with running_queue(settings, first):
        pass
    (source / "70.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    with running_queue(settings, second):
        pass
    ended = second.get(request.job_id)

    assert ended.state == "failed"
    assert str(source) in str(ended.error)
    assert len(list(out.glob("_plan-*"))) == 1
    assert issubclass(SourceChanged, Conflict)


def test_damaged_plan_is_written_again(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    out = tmp_path / "out"
    score(settings, source, out, digits_model, 0)
    (out / PLAN).write_text("")
    score(settings, source, out, digits_model, 1, 2)
    score(settings, source, out, digits_model)
    assert pq.read_table(out).num_rows == IMAGES - 1


def test_stopped_slice_continues(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    request = new_request(source, out, digits_model)
    queue = SliceQueue(request, 1, Slice(0, 1), None)
    released = threading.Event()
    write_part = outputs.write_part

    def slow(folder: Path, shard: int, *rest: object) -> list[str]:
        if shard == 3:
            queue.interrupted.set()
            released.wait(PATIENCE_SECONDS)
        return write_part(folder, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write_part", slow)
    with running_queue(settings, queue):
        until(lambda: queue.get(request.job_id).state == "cancelled")
        released.set()
    assert not (out / "_summary.json").exists()
    monkeypatch.undo()

    again = SliceQueue(request, 1, Slice(0, 1), read_plan(request))
    assert 0 < again.get(request.job_id).done < IMAGES
    with running_queue(settings, again):
        pass
    assert (again.get(request.job_id).done, again.get(request.job_id).failed) == (IMAGES - 1, 1)


def test_failed_and_stopped_slices_end_with_an_error(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepared = prepare(lambda _: None, source, tmp_path / "out", digits_model.tag, SHARD)
    shutil.move(source, source.with_name("away"))
    with pytest.raises(JobFailed, match="0/3"):
        slices.score_slice(settings, prepared, Slice(0, SLICES))
    shutil.move(source.with_name("away"), source)

    started = SliceQueue.claim

    def stopping(queue: SliceQueue) -> object:
        queue.interrupted.set()
        return started(queue)

    monkeypatch.setattr(SliceQueue, "claim", stopping)
    with pytest.raises(Interrupted):
        slices.score_slice(settings, prepared, Slice(0, SLICES))


@pytest.fixture
def command(
    loupe: Loupe, source: Path, tmp_path: Path, digits_model: StoredModel
) -> Callable[..., Ended]:
    """Return a function that runs `loupe score` for one job."""

    def run(*options: object, model: str = digits_model.tag) -> Ended:
        given = ("score", source, "--out", tmp_path / "out", "--model", model)
        return loupe(*given, *options)

    return run


@pytest.mark.parametrize(
    "options",
    [
        ("--slice", "3/3"),
        ("--slice", "-1/3"),
        ("--slice", "0/0"),
        ("--slice", "1"),
        ("--slice", "0/1000000"),
        ("--slice", "0/3", "--finish"),
        ("--slice", "0/3", "--local"),
        ("--finish", "--again"),
        ("--slice", "0/3", "--detach"),
    ],
)
def test_impossible_slices_are_refused(
    command: Callable[..., Ended], tmp_path: Path, options: tuple[str, ...]
) -> None:
    ended = command(*options)

    assert ended.code == 2
    assert ended.err.startswith("error: invalid_usage: ")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_slice_with_another_model_options_or_number_is_refused(
    command: Callable[..., Ended], shapes_model: StoredModel
) -> None:
    first = command("--slice", "0/3")
    assert first.code == 0
    assert "slice 0/3" in first.out

    for refused, code in (
        (command("--slice", "1/4"), "slices_differ"),
        (command("--slice", "1/3", "--top-k", 2), "invalid_output"),
        (command("--finish", model=shapes_model.tag), "invalid_output"),
        (command("--finish"), None),  # one shard, so slice 0 was all
    ):
        if code is None:
            assert refused.code == 0
        else:
            assert refused.err.startswith(f"error: {code}: ")
            assert len(refused.err.splitlines()) == 1
            assert "--again" not in refused.err  # slices do not have it
