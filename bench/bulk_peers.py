"""A folder of PNG files: one worker beside Ray Data, and beside Celery with a task for each file."""

import gc
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.bulk import LOUPE, compared
from bench.peers import is_there
from bench.pictures import find_images, save_pngs
from bench.ray_peer import ray_data
from bench.redis import redis_over_tcp
from bench.report import Row, at_least
from bench.turns import in_turns, per_second
from bench.workers import working
from loupe.processes import running
from loupe.store import ONNX_FILE, StoredModel

IMAGES = 70_000
CELERY_IMAGES = 2_000
CELERY_PROCESSES = 2
CELERY_SECONDS = 60  # in which it answers
ROUNDS = 2
RAY, CELERY = "Ray Data, map_batches", "Celery, a task per image"
TARGETS = {RAY: at_least(1.5), CELERY: at_least(10)}


def measure(model: StoredModel) -> Iterator[Row]:
    """Images per second from the submission to the last result, with workers that wait; Ray starts its actors for each job anew."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))  # Ray ends late
        pngs = folder / "pngs"
        save_pngs(find_images(model, IMAGES), pngs)
        worker = stack.enter_context(working(model, folder))
        runs = {LOUPE: partial(per_second, IMAGES, partial(worker.score, pngs))}
        if is_there(RAY, "ray"):
            score = stack.enter_context(ray_data(model, folder))
            runs[RAY] = partial(per_second, IMAGES, partial(score, pngs))
        if is_there(CELERY, "celery"):
            few = sorted(pngs.iterdir())[:CELERY_IMAGES]
            score_few = stack.enter_context(_celery(model, folder))
            runs[CELERY] = partial(per_second, len(few), partial(score_few, few))
        rates = in_turns(runs, ROUNDS)
    for name, target in TARGETS.items():
        if name in rates:
            yield compared(f"{IMAGES:,} PNG files in a folder", rates, LOUPE, name, target)


@contextmanager
def _celery(model: StoredModel, folder: Path) -> Iterator[Callable[[list[Path]], None]]:
    """A Celery worker with a Redis of its own, and a function that has picture files classified by it."""
    with redis_over_tcp(folder) as url:
        from bench import celery_app

        variables = {celery_app.REDIS_URL: url, celery_app.MODEL_FILE: str(model.folder / ONNX_FILE)}
        celery_app.app.conf.update(broker_url=url, result_backend=url)
        command = [sys.executable, "-m", "celery", "--app", "bench.celery_app", "worker", "--loglevel", "WARNING"]
        command += ["--concurrency", str(CELERY_PROCESSES)]
        variables["PYTHONPATH"] = str(Path.cwd())
        with running("celery worker", command, environment=variables, log=folder / "celery.log"):

            def score(files: list[Path]) -> None:
                from celery import group

                tasks = group(celery_app.classify.s(str(file)) for file in files)
                tasks.apply_async().get(timeout=CELERY_SECONDS)

            try:
                yield score
            finally:
                gc.collect()  # results take leave of their Redis, which is about to end
