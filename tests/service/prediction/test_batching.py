"""The batcher in front of a trivial engine, whose sums differ for each image."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import (
    CallerGone,
    DeadlineExceeded,
    InvalidPixels,
    LoupeError,
    ShuttingDown,
    TooManyRequests,
)
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.engines.engine import Outputs
from service.prediction import batching
from service.prediction.batching import RECENT_RUNS, SHORT_RUN_SECONDS, SLICE, Batcher
from service.prediction.caller import Caller
from tests.support.pictures import SIDE
from tests.support.programs import until

Run = Callable[[UInt8Array], Float32Array]


def sums(images: UInt8Array) -> Float32Array:
    """Return the sums of the upper and the lower half of each image."""
    halves = images.reshape(-1, 2, SIDE * SIDE // 2)
    return np.asarray(halves.sum(axis=2), np.float32)  # (n, 2)


def random_images(count: int, seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)


class Gate:
    """An engine that waits to be let go, so that a test decides what meets in the queue."""

    def __init__(self) -> None:
        self.batches: list[UInt8Array] = []
        self.busy = threading.Event()
        self.open = threading.Event()

    def __call__(self, images: UInt8Array) -> Float32Array:
        self.batches.append(images)
        self.busy.set()
        assert self.open.wait(30)
        return sums(images)

    async def is_busy(self) -> None:
        await asyncio.to_thread(self.busy.wait, 30)


@dataclass(frozen=True)
class Runs:
    """Remembers how many images each run had."""

    sizes: list[int]

    def ran(self, images: int, waited: Sequence[float], seconds: float) -> None:
        assert all(wait >= 0 for wait in (*waited, seconds))
        self.sizes.append(images)


class Waiting:
    """A batcher for engines that return probabilities only, and familiarity that follows them."""

    def __init__(self, run: Run, **limits: Any) -> None:
        defaults = {"classes": 2, "max_batch_size": 16, "max_queued_images": 10_000}

        def outputs(images: UInt8Array) -> Outputs:
            rows = run(images)
            return Outputs(rows, rows[:, 0])

        self.batcher = Batcher(outputs, **{**defaults, **limits})
        self.close = self.batcher.close

    async def predict(self, images: UInt8Array, caller: Caller) -> Float32Array:
        """Return the probabilities."""
        outputs = await self.batcher.predict(images, caller)
        np.testing.assert_array_equal(outputs.familiarity, outputs.probabilities[:, 0])
        return outputs.probabilities


def patient() -> Caller:
    """Return a caller who waits longer than any test."""
    return Caller.within(30)


def lone() -> Caller:
    """Return a patient caller besides whom nobody waits."""
    return replace(patient(), alone=lambda: True)


async def asked(
    waiting: Waiting, images: UInt8Array, caller: Caller | None = None
) -> "asyncio.Task[Float32Array]":
    """Queue a request and wait until it is in the queue."""
    task = asyncio.create_task(waiting.predict(images, caller or patient()))
    await asyncio.sleep(0)
    return task


def play(scene: Coroutine[object, object, None]) -> None:
    """Run a scene on a new event loop."""
    asyncio.run(scene)


# Answers


def test_answers_return_to_the_right_caller_under_concurrency() -> None:
    random = np.random.default_rng(0)
    requests = [random_images(int(random.integers(1, 9)), seed) for seed in range(200)]

    async def scene() -> None:
        waiting = Waiting(sums)
        answers = await asyncio.gather(*(waiting.predict(images, patient()) for images in requests))
        for images, answer in zip(requests, answers, strict=True):
            np.testing.assert_array_equal(answer, sums(images))
        await waiting.close()

    play(scene())


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=20),
    max_batch_size=st.integers(1, 20),
)
def test_requests_of_any_size_get_their_rows_and_runs_stay_small(
    sizes: list[int], max_batch_size: int
) -> None:
    runs: list[int] = []
    requests = [random_images(size, seed) for seed, size in enumerate(sizes)]

    async def scene() -> None:
        waiting = Waiting(sums, max_batch_size=max_batch_size, on_run=Runs(runs).ran)
        answers = await asyncio.gather(*(waiting.predict(images, patient()) for images in requests))
        for images, answer in zip(requests, answers, strict=True):
            np.testing.assert_array_equal(answer, sums(images))
        await waiting.close()

    play(scene())
    assert sum(runs) == sum(sizes)
    assert max(runs, default=0) <= max_batch_size


def test_requests_queued_during_a_run_share_the_next_run() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate)
        first = await asked(waiting, random_images(1))
        await gate.is_busy()
        others = [await asked(waiting, random_images(2, seed)) for seed in range(5)]
        gate.open.set()
        await asyncio.gather(first, *others)
        assert [len(images) for images in gate.batches] == [1, 10]
        await waiting.close()

    play(scene())


def test_without_batching_each_request_has_a_run() -> None:
    async def scene() -> None:
        runs: list[int] = []
        waiting = Waiting(sums, together=False, on_run=Runs(runs).ran)
        requests = [random_images(size, seed=size) for size in (1, 2, 3)]
        answers = await asyncio.gather(*(waiting.predict(images, patient()) for images in requests))
        for images, answer in zip(requests, answers, strict=True):
            np.testing.assert_array_equal(answer, sums(images))
        await waiting.close()
        assert runs == [1, 2, 3]

    play(scene())


class Where:
    """An engine that records whether it runs on the event loop's thread."""

    def __init__(self, seconds: float = 0) -> None:
        self.on_event_loop: list[bool] = []
        self._seconds = seconds

    def __call__(self, images: UInt8Array) -> Float32Array:
        self.on_event_loop.append(threading.current_thread() is threading.main_thread())
        time.sleep(self._seconds)
        return sums(images)


def test_short_runs_execute_on_the_event_loop_once_their_duration_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "SHORT_RUN_SECONDS", 60.0)  # however slow the machine

    async def scene() -> None:
        engine = Where()
        waiting = Waiting(engine)
        for seed in range(3):
            images = random_images(1, seed)
            np.testing.assert_array_equal(await waiting.predict(images, patient()), sums(images))
        requests = [random_images(1, seed) for seed in range(5)]
        answers = await asyncio.gather(*(waiting.predict(images, patient()) for images in requests))
        for images, answer in zip(requests, answers, strict=True):
            np.testing.assert_array_equal(answer, sums(images))
        assert engine.on_event_loop == [False, True, True, True]
        await waiting.close()

    play(scene())


def test_request_that_arrives_in_the_next_turn_of_the_event_loop_shares_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "SHORT_RUN_SECONDS", 60.0)

    async def scene() -> None:
        ran = Runs([])
        waiting = Waiting(sums, on_run=ran.ran)
        await waiting.predict(random_images(1), patient())
        first = await asked(waiting, random_images(1))
        second = await asked(waiting, random_images(1))
        await asyncio.gather(first, second)
        assert ran.sizes == [1, 2]
        await waiting.close()

    play(scene())


def test_lone_request_runs_before_the_event_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SHORT_RUN_SECONDS", 60.0)

    async def scene() -> None:
        engine, ran = Where(), Runs([])
        waiting = Waiting(engine, on_run=ran.ran)
        await waiting.predict(random_images(1), lone())  # its duration is not known: in a thread
        turned: list[bool] = []
        asyncio.get_running_loop().call_soon(turned.append, True)
        answer = await waiting.predict(random_images(2), lone())
        np.testing.assert_array_equal(answer, sums(random_images(2)))
        assert not turned
        assert (engine.on_event_loop, ran.sizes) == ([False, True], [1, 2])
        assert waiting.batcher.admitted == 0
        await waiting.close()

    play(scene())


def test_lone_request_shares_the_run_of_those_that_are_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batching, "SHORT_RUN_SECONDS", 60.0)

    async def scene() -> None:
        ran = Runs([])
        waiting = Waiting(sums, on_run=ran.ran)
        await waiting.predict(random_images(1), patient())
        callers = (patient(), lone())
        await asyncio.gather(*(waiting.predict(random_images(1), caller) for caller in callers))
        assert ran.sizes == [1, 2]
        await waiting.close()

    play(scene())


def test_lone_large_request_executes_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SHORT_RUN_SECONDS", 60.0)

    async def scene() -> None:
        engine = Where()
        waiting = Waiting(engine)
        await waiting.predict(random_images(1), lone())
        assert len(await waiting.predict(random_images(17), lone())) == 17
        assert not any(engine.on_event_loop)
        assert len(await waiting.predict(random_images(0), lone())) == 0
        await waiting.close()

    play(scene())


def test_long_runs_execute_in_threads() -> None:
    async def scene() -> None:
        engine = Where(SHORT_RUN_SECONDS)
        waiting = Waiting(engine)
        for caller in (patient(), patient(), lone()):
            await waiting.predict(random_images(1), caller)
        assert not any(engine.on_event_loop)
        await waiting.close()

    play(scene())


class Clock:
    """A clock that only engines move."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("microseconds_per_image", "requests", "runs", "is_on_event_loop"),
    [
        pytest.param(10, [2] * 32, [64], True, id="all fit"),
        pytest.param(40, [2] * 32, [50, 14], True, id="many fit"),
        pytest.param(80, [2] * 32, [64], False, id="few fit"),
        pytest.param(40, [60], [60], False, id="one request that does not fit"),
    ],
)
def test_run_on_the_event_loop_takes_what_fits_unless_that_is_little(
    monkeypatch: pytest.MonkeyPatch,
    microseconds_per_image: int,
    requests: list[int],
    runs: list[int],
    is_on_event_loop: bool,
) -> None:
    clock = Clock()
    monkeypatch.setattr(batching, "time", clock)

    async def scene() -> None:
        engine, ran = Where(), Runs([])

        def run(images: UInt8Array) -> Float32Array:
            clock.now += len(images) * microseconds_per_image / 1e6
            return engine(images)

        waiting = Waiting(run, max_batch_size=64, on_run=ran.ran)
        await waiting.predict(random_images(1), patient())  # now the duration is known
        parts = [random_images(size, seed) for seed, size in enumerate(requests)]
        answers = await asyncio.gather(*(waiting.predict(images, patient()) for images in parts))
        for images, answer in zip(parts, answers, strict=True):
            np.testing.assert_array_equal(answer, sums(images))
        assert ran.sizes[1:] == runs
        assert engine.on_event_loop[1:] == [is_on_event_loop] * len(runs)
        await waiting.close()

    play(scene())


def test_runs_stay_on_the_event_loop_until_all_recent_ones_were_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(batching, "time", clock)

    async def scene() -> None:
        engine = Where()
        durations = iter([0.001, *[0.01] * (RECENT_RUNS + 1)])

        def run(images: UInt8Array) -> Float32Array:
            clock.now += next(durations)
            return engine(images)

        waiting = Waiting(run)
        for _ in range(RECENT_RUNS + 2):
            await waiting.predict(random_images(1), patient())
        assert engine.on_event_loop == [False, *[True] * RECENT_RUNS, False]
        await waiting.close()

    play(scene())


def test_slices_of_a_large_request_execute_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "SHORT_RUN_SECONDS", 60.0)

    async def scene() -> None:
        engine = Where()
        waiting = Waiting(engine, max_batch_size=4)
        await waiting.predict(random_images(1), patient())
        await waiting.predict(random_images(16), patient())
        assert not any(engine.on_event_loop)
        await waiting.close()

    play(scene())


def test_no_images_give_no_rows() -> None:
    async def scene() -> None:
        waiting = Waiting(sums)
        answer = await waiting.predict(random_images(0), patient())
        assert answer.shape == (0, 2)
        assert answer.dtype == np.float32
        await waiting.close()

    play(scene())


def test_small_request_runs_between_slices_of_a_large_one() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate, max_batch_size=4)
        images, single = random_images(10), random_images(1, seed=9)
        large = await asked(waiting, images)
        await gate.is_busy()
        small = await asked(waiting, single)
        gate.open.set()
        np.testing.assert_array_equal(await large, sums(images))
        np.testing.assert_array_equal(await small, sums(single))
        runs_with_single = [
            number
            for number, batch in enumerate(gate.batches)
            if any(np.array_equal(image, single[0]) for image in batch)
        ]
        assert runs_with_single[0] <= 2  # before the last slice, or with it
        await waiting.close()

    play(scene())


# Threads


def test_second_run_uses_a_free_thread() -> None:
    async def scene() -> None:
        gate = Gate()

        def run(images: UInt8Array) -> Float32Array:
            return gate(images) if len(images) == 1 else sums(images)

        waiting = Waiting(run, threads=2, max_batch_size=4)
        first = await asked(waiting, random_images(1))
        await gate.is_busy()
        images = random_images(4)
        np.testing.assert_array_equal(await waiting.predict(images, patient()), sums(images))
        assert not first.done()
        gate.open.set()
        assert len(await first) == 1
        await waiting.close()

    play(scene())


def test_slices_of_a_large_request_run_in_parallel() -> None:
    async def scene() -> None:
        both = threading.Barrier(2)

        def run(images: UInt8Array) -> Float32Array:
            both.wait(10)
            return sums(images)

        waiting = Waiting(run, threads=2, max_batch_size=4)
        np.testing.assert_array_equal(
            await waiting.predict(random_images(16), patient()), sums(random_images(16))
        )
        await waiting.close()

    play(scene())


def test_thread_that_is_done_has_the_next_slice_at_once() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate, max_batch_size=4)
        images = random_images(12)
        large = await asked(waiting, images)
        await gate.is_busy()
        gate.open.set()
        until(lambda: len(gate.batches) == 2)  # while the event loop stands still
        np.testing.assert_array_equal(await large, sums(images))
        await waiting.close()

    play(scene())


# Refusals


def test_full_queue_refuses_requests_and_answers_the_rest() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate, max_queued_images=5)
        accepted = [
            await asked(waiting, random_images(2)),
            await asked(waiting, random_images(3, seed=1)),
        ]
        with pytest.raises(
            TooManyRequests, match=r"limit is 5 .*LOUPE_MAX_QUEUED_IMAGES"
        ) as refused:
            await waiting.predict(random_images(1), patient())
        assert refused.value.code == "overloaded"
        gate.open.set()
        await asyncio.gather(*accepted)
        assert len(await waiting.predict(random_images(5), patient())) == 5  # there is room again
        await waiting.close()

    play(scene())


def test_caller_with_a_full_queue_leaves_room_for_others() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate, max_queued_images=4)
        alice, bob = Caller.within(30, name="alice"), Caller.within(30, name="bob")
        full = await asked(waiting, random_images(4), alice)
        with pytest.raises(TooManyRequests):
            await waiting.predict(random_images(1), alice)
        other = await asked(waiting, random_images(2, seed=1), bob)
        gate.open.set()
        np.testing.assert_array_equal(await other, sums(random_images(2, seed=1)))
        await full
        assert waiting.batcher.admitted == 0
        await waiting.close()

    play(scene())


def test_request_past_its_deadline_fails_and_is_not_computed() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate)
        first = await asked(waiting, random_images(1))
        await gate.is_busy()
        late = await asked(waiting, random_images(1, seed=1), Caller.within(0.05))
        with pytest.raises(DeadlineExceeded, match=r"0\.05 s"):
            await late  # while the engine is still busy
        gate.open.set()
        assert len(await first) == 1
        await waiting.close()
        assert len(gate.batches) == 1

    play(scene())


def test_request_that_arrives_after_its_deadline_is_not_computed() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate)
        with pytest.raises(DeadlineExceeded):
            await waiting.predict(random_images(1), Caller.within(-1))
        await waiting.close()
        assert not gate.batches

    play(scene())


def test_request_of_a_disconnected_client_is_skipped() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate, max_batch_size=2)
        first = await asked(waiting, random_images(1))
        await gate.is_busy()
        left = await asked(waiting, random_images(1, seed=1), Caller.within(30, lambda: True))
        stayed = await asked(waiting, random_images(1, seed=2), Caller.within(30, lambda: False))
        gate.open.set()
        with pytest.raises(CallerGone):
            await left
        np.testing.assert_array_equal(await stayed, sums(random_images(1, seed=2)))
        await first
        await waiting.close()
        assert [len(images) for images in gate.batches] == [1, 1]

    play(scene())


def test_large_request_of_a_disconnected_client_ends_early() -> None:
    async def scene() -> None:
        runs: list[int] = []

        def gone() -> bool:
            return len(runs) >= 3

        waiting = Waiting(sums, max_batch_size=SLICE, on_run=Runs(runs).ran)
        with pytest.raises(CallerGone):
            await waiting.predict(random_images(20 * SLICE), Caller.within(30, gone))
        await waiting.close()
        assert sum(runs) <= 5 * SLICE

    play(scene())


def test_cancelled_request_is_not_computed() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate, max_queued_images=4)
        first = await asked(waiting, random_images(1))
        await gate.is_busy()
        gone = await asked(waiting, random_images(3, seed=1))
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        successor = await asked(
            waiting, random_images(3, seed=2)
        )  # takes the place of the cancelled one
        gate.open.set()
        await first
        np.testing.assert_array_equal(await successor, sums(random_images(3, seed=2)))
        assert [len(images) for images in gate.batches] == [1, 3]
        await waiting.close()

    play(scene())


def test_cancellation_during_a_run_does_not_affect_others() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate)
        gone = await asked(waiting, random_images(1))
        await gate.is_busy()
        gone.cancel()
        gate.open.set()
        np.testing.assert_array_equal(
            await waiting.predict(random_images(2), patient()), sums(random_images(2))
        )
        await waiting.close()

    play(scene())


# Engines that fail


def test_wrong_number_of_rows_fails_only_that_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def one_row_short(images: UInt8Array) -> Float32Array:
        return sums(images)[: len(images) - (len(images) == 3)]

    async def scene() -> None:
        waiting = Waiting(one_row_short)
        outcomes = await asyncio.gather(
            waiting.predict(random_images(1), patient()),
            waiting.predict(random_images(2), patient()),
            return_exceptions=True,
        )
        for outcome in outcomes:
            assert isinstance(outcome, LoupeError)
            assert "(2, 2)" in outcome.message
        np.testing.assert_array_equal(
            await waiting.predict(random_images(4), patient()), sums(random_images(4))
        )
        await waiting.close()

    play(scene())
    assert "the engine failed on a batch of 3 images" in caplog.text


def test_wrong_number_of_classes_fails_the_run() -> None:
    async def scene() -> None:
        waiting = Waiting(sums, classes=3)
        with pytest.raises(LoupeError, match=r"\(1, 2\)"):
            await waiting.predict(random_images(1), patient())
        await waiting.close()

    play(scene())


def test_engine_error_fails_only_that_run() -> None:
    def no_zeros(images: UInt8Array) -> Float32Array:
        if not images.any():
            raise RuntimeError("out of memory")
        return sums(images)

    async def scene() -> None:
        waiting = Waiting(no_zeros)
        for caller in (patient(), lone()):
            with pytest.raises(LoupeError, match="out of memory"):
                await waiting.predict(np.zeros((1, SIDE, SIDE), np.uint8), caller)
            assert len(await waiting.predict(random_images(1), caller)) == 1
        await waiting.close()

    play(scene())


def test_loupe_error_of_the_engine_is_passed_on() -> None:
    def refuses(images: UInt8Array) -> Float32Array:
        raise InvalidPixels("No pixels.")

    async def scene() -> None:
        waiting = Waiting(refuses)
        with pytest.raises(InvalidPixels, match=r"^No pixels\.$"):
            await waiting.predict(random_images(1), patient())
        await waiting.close()

    play(scene())


# The end


def test_close_answers_queued_requests_and_refuses_new_ones() -> None:
    async def scene() -> None:
        gate = Gate()
        waiting = Waiting(gate)
        first = await asked(waiting, random_images(1))
        await gate.is_busy()
        second = await asked(waiting, random_images(2, seed=1))
        closing = asyncio.create_task(waiting.close())
        await asyncio.sleep(0)
        with pytest.raises(ShuttingDown, match="shutting down"):
            await waiting.predict(random_images(1), patient())
        gate.open.set()
        await closing
        np.testing.assert_array_equal(await first, sums(random_images(1)))
        np.testing.assert_array_equal(await second, sums(random_images(2, seed=1)))

    play(scene())


def test_unused_batcher_closes() -> None:
    play(Waiting(sums).close())
