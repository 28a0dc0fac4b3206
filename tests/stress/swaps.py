"""`python -m tests.stress.swaps`: promote models under load, and check that no request is lost."""

import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from bench.harness import run_program
from bench.inputs import benchmark_model, find_images, png_post
from loupe.models.promotion import promote
from tests.support.programs import serving, until
from tests.support.stores import copied

SWAPS = 100
PROCESSES = 2
CLIENTS = 6


def main() -> int:
    """Run the test; return the exit code."""
    with benchmark_model() as model, tempfile.TemporaryDirectory() as folder:
        post = png_post(find_images(model, 1)[0])
        home = Path(folder)
        tags = [copied(model, home, f"swapped:{name}").tag for name in ("first", "second")]
        BentoMLContainer.model_store.set(ModelStore(home / "models"))
        promote(tags[0], force=True)
        stop = threading.Event()
        settings = {
            "BENTOML_HOME": home,
            "LOUPE_DATA_DIR": home / "data",
            "LOUPE_PROCESSES": PROCESSES,
            "LOUPE_FOLLOW_SECONDS": 0.05,
        }
        with serving(home / "log", **settings) as service:

            def send() -> Counter[tuple[int, str]]:
                seen: Counter[tuple[int, str]] = Counter()
                with httpx.Client(base_url=service.url, timeout=60) as client:
                    while not stop.is_set():
                        answer = client.post(post.route, content=post.body, headers=post.headers)
                        seen[answer.status_code, answer.json().get("model")] += 1
                return seen

            def swaps() -> int:
                text = httpx.get(f"{service.url}/metrics", timeout=60).text
                name = 'loupe_model_swaps_total{model="swapped",outcome="succeeded"} '
                return int(float(text.partition(name)[2].partition("\n")[0] or 0))

            with ThreadPoolExecutor(CLIENTS) as pool:
                loads = [pool.submit(send) for _ in range(CLIENTS)]
                started = time.monotonic()
                for number in range(SWAPS):
                    promote(tags[(number + 1) % 2], force=True)
                    until(lambda: swaps() >= PROCESSES * (number + 1))  # noqa: B023 - called at once
                stop.set()
                seen = sum((each.result() for each in loads), Counter())
        seconds = time.monotonic() - started
    print(f"{SWAPS} swaps of {PROCESSES} processes in {seconds:.0f} s; answers: {dict(seen)}")
    return 0 if set(seen) == {(200, tag) for tag in tags} else 1


if __name__ == "__main__":
    sys.exit(run_program(main))
