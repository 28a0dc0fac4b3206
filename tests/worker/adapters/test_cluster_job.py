"""`loupe score --on`: slices as tasks of a cluster, here one that runs them in this process."""

import pickle
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from loupe.errors import Interrupted, JobFailed, ServiceUnreachable
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support.command import Loupe
from tests.worker.conftest import IMAGES, SHARD
from tests.worker.test_slices import contents, figures
from worker.adapters import cluster_job
from worker.adapters.cluster_job import ClusterQueue, SliceTask, score_on
from worker.adapters.clusters import Cluster, Outcomes, Task
from worker.process import running_locally, running_queue
from worker.queue.submission import Prepared, prepare


def prepared(
    source: Path,
    output: Path,
    model: StoredModel,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    again: bool = False,
) -> Prepared:
    return prepare(lambda _: None, source, output, model.tag, SHARD, options, again=again)


def run_here(task: Task, count: int) -> Outcomes:
    """Run tasks from the last to the first."""
    for number in reversed(range(count)):
        here: Task = pickle.loads(pickle.dumps(task))  # noqa: S301 - our own
        yield None
        yield here(number)


@contextmanager
def here() -> Iterator[Cluster]:
    yield Cluster(1, run_here)


@pytest.mark.parametrize("slices", [cluster_job.MIN_SLICES, 3])
def test_cluster_makes_the_files_of_one_process(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    slices: int,
) -> None:
    monkeypatch.setattr(cluster_job, "MIN_SLICES", slices)
    monkeypatch.setattr(cluster_job, "SLICES_PER_CORE", 1)
    options = ScoringOptions(single=True, top_k=2)
    alone, out = tmp_path / "alone", tmp_path / "out"
    with running_locally(settings, prepared(source, alone, digits_model, options).request):
        pass
    score_on(here, settings, prepared(source, out, digits_model, options), None)

    expected, found = contents(alone), contents(out)
    assert found.keys() == expected.keys()
    assert {name for name in found if found[name] != expected[name]} == {"_SUCCESS"}
    assert figures(out) == figures(alone)
    assert figures(out)["failed"] == 1
    before = capsys.readouterr().out
    assert f"{IMAGES - 1} scored, errors: 1" in before

    score_on(here, settings, prepared(source, out, digits_model, options), None)
    assert before.endswith(capsys.readouterr().out)  # the summary alone


def test_stopped_job_continues_with_its_parts(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    out = tmp_path / "out"
    request = prepared(source, out, digits_model).request

    def stops(task: Task, count: int) -> Outcomes:
        yield task(0)
        yield task(1)
        queue.interrupted.set()
        yield None
        raise AssertionError("follows no slice of a stopped job")

    queue = ClusterQueue(request, settings, Cluster(1, stops))
    with running_queue(settings, queue):
        pass
    assert (queue.get(request.job_id).state, queue.get(request.job_id).done) == ("cancelled", 20)
    assert not (out / "_summary.json").exists()
    part = out / "predictions-00000-of-00007.parquet"
    written = part.stat().st_mtime_ns

    score_on(here, settings, prepared(source, out, digits_model), None)
    assert part.stat().st_mtime_ns == written
    assert pq.read_table(out).num_rows == IMAGES - 1

    score_on(here, settings, prepared(source, out, digits_model, again=True), None)
    assert part.stat().st_mtime_ns > written


def test_interrupted_command_says_how_to_continue(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim = ClusterQueue.claim

    def stopping(queue: ClusterQueue) -> object:
        queue.interrupted.set()
        return claim(queue)

    monkeypatch.setattr(ClusterQueue, "claim", stopping)
    with pytest.raises(Interrupted):
        score_on(here, settings, prepared(source, tmp_path / "out", digits_model), None)


def test_job_ends_when_a_slice_fails_or_too_many_images_do(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    def fails(task: Task, count: int) -> Outcomes:
        yield task(0)
        shutil.move(source, source.with_name("away"))
        yield task(1)
        raise AssertionError("follows no slice of a failed job")

    @contextmanager
    def failing() -> Iterator[Cluster]:
        yield Cluster(1, fails)

    with pytest.raises(JobFailed, match="digits"):
        score_on(failing, settings, prepared(source, tmp_path / "a", digits_model), None)
    shutil.move(source.with_name("away"), source)

    with pytest.raises(JobFailed, match=" 0 of the images"):
        score_on(here, settings, prepared(source, tmp_path / "b", digits_model), "0")
    assert len(list((tmp_path / "b").glob("predictions-*"))) < 7


def test_engine_that_fails_ends_the_job(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    def crashes(task: Task, count: int) -> Outcomes:
        yield None
        raise ZeroDivisionError("of the engine")

    @contextmanager
    def crashing() -> Iterator[Cluster]:
        yield Cluster(1, crashes)

    with pytest.raises(JobFailed, match="of the engine"):
        score_on(crashing, settings, prepared(source, tmp_path / "out", digits_model), None)


def test_cluster_that_does_not_answer_leaves_no_output(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    @contextmanager
    def absent() -> Iterator[Cluster]:
        raise ServiceUnreachable("no cluster")
        yield

    out = tmp_path / "out"
    with pytest.raises(ServiceUnreachable):
        score_on(absent, settings, prepared(source, out, digits_model), None)
    assert not out.exists()


def test_node_without_the_output_or_with_another_loupe_says_so(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    request = prepared(source, tmp_path / "out", digits_model).request
    task = SliceTask(request, 1, {})
    assert str(tmp_path / "out") in str(task(0).error)
    assert "protocol" in str(replace(task, protocol="0")(0).error)
    assert not list((tmp_path / "out").glob("predictions-*"))


@pytest.mark.parametrize(
    "options",
    [
        ("--on", "ray", "--local"),
        ("--on", "spark", "--slice", "0/3"),
        ("--on", "ray", "--finish"),
        ("--on", "ray", "--detach"),
        ("--on", "ray", "--master", "local[2]"),
        ("--master", "local[2]"),
    ],
)
def test_impossible_clusters_are_refused(
    loupe: Loupe, source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    ended = loupe("score", source, "--out", tmp_path / "out", *options)

    assert ended.code == 2
    assert ended.err.startswith("error: invalid_usage: ")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
