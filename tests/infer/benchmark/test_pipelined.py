"""The pipelined rate: what overlaps, what is counted, and that nothing goes on afterwards."""

from __future__ import annotations

import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import slim_spec

from infer.benchmark import pipelined
from infer.benchmark.pipelined import WARM_UP, mean_posteriors, time_pipelined
from infer.engine import HOST, EngineError, load_on_host
from infer.views import plan_views

WAIT_S = 10.0


class HostEngine:
    """Takes what it is given; a posterior of its own for each view."""

    spec = slim_spec("A")
    device = HOST

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.decoded = 0
        self.plan = partial(plan_views, self.spec, "ten-crop")
        self.lock = threading.Lock()

    def decode(self, data: bytes, *, exif: str = "ignore", name: str = "") -> Any:
        with self.lock:
            self.decoded += 1
        return np.zeros((100, 120, 3), np.uint8)

    def load(self, images: Any) -> Any:
        return load_on_host(images)

    def run(self, image: Any, plans: Any, outputs: Any = ()) -> Any:
        assert outputs == ("posterior",) and len(image.images) == len(plans)
        self.batches.append(len(plans))
        return {"posterior": np.zeros((sum(map(len, plans)), 8), np.float32)}


class Device(HostEngine):
    """A GPU's manner: `start` comes back, and the answer is waited for."""

    device = "cuda:0"

    def __init__(self) -> None:
        super().__init__()
        self.waiting = self.most_waiting = 0

    def start(self, image: Any, plans: Any, outputs: Any = ()) -> Any:
        answer = self.run(image, plans, outputs)
        self.waiting += 1
        self.most_waiting = max(self.waiting, self.most_waiting)

        def result() -> Any:
            self.waiting -= 1
            return answer

        return SimpleNamespace(result=result)


def measure(engine: Any, batch: int, batches: int | None, workers: int = 2) -> float:
    return time_pipelined(engine, b"", engine.plan, batch, batches, workers=workers, decode=engine.decode)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Says a second more each time it is asked."""
    clock = SimpleNamespace(now=0.0)

    def now() -> float:
        clock.now += 1
        return float(clock.now)

    monkeypatch.setattr(pipelined, "time", SimpleNamespace(perf_counter=now))
    return clock


@pytest.mark.parametrize("kind", [HostEngine, Device])
def test_images_after_the_warm_up_are_counted(kind: Any, clock: SimpleNamespace) -> None:
    """Every batch takes a second of this clock, which is asked once for each."""
    engine = kind()
    assert measure(engine, 3, 5) == 3
    assert clock.now == WARM_UP + 5
    assert engine.batches == [3] * (WARM_UP + 5 + (kind is Device))  # a GPU was given one more, whose answer is awaited


def test_without_a_number_it_goes_on_for_a_while(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelined, "LEAST_RUNS", 2)
    monkeypatch.setattr(pipelined, "LEAST_S", 7.0)
    assert measure(HostEngine(), 4, None) == 4
    assert clock.now == WARM_UP + 7


def test_a_gpu_is_given_the_next_batch_before_the_last_is_waited_for() -> None:
    engine = Device()
    measure(engine, 2, 4)
    assert (engine.most_waiting, engine.waiting) == (2, 0)


def test_decoding_goes_on_while_the_engine_computes() -> None:
    """The engine answers when later images have been decoded: one after the other this would never end."""

    class Patient(HostEngine):
        def run(self, image: Any, plans: Any, outputs: Any = ()) -> Any:
            answer = super().run(image, plans, outputs)
            wanted = 2 * len(self.batches) + 2
            deadline = threading.Event()
            for _ in range(1000):
                if self.decoded >= wanted:
                    return answer
                deadline.wait(WAIT_S / 1000)
            raise AssertionError(f"{self.decoded} images decoded, expected {wanted}")

    measure(Patient(), 2, 3)


def test_nothing_goes_on_afterwards() -> None:
    engine, before = HostEngine(), threading.active_count()
    measure(engine, 2, 2, workers=3)
    assert threading.active_count() == before


def test_errors_come_through_and_end_the_threads() -> None:
    class Failing(HostEngine):
        def run(self, *_: Any) -> Any:
            raise EngineError("out of memory")

    before = threading.active_count()
    with pytest.raises(EngineError, match="out of memory"):
        measure(Failing(), 2, 2)
    assert threading.active_count() == before


def test_images_that_share_calls_are_rescaled_where_they_are_decoded() -> None:
    """Of an engine on the host: what is left of them is their size, as in evaluations."""
    seen: list[tuple[int, ...]] = []

    class Watched(HostEngine):
        def run(self, image: Any, plans: Any, outputs: Any = ()) -> Any:
            seen.append(image.images[0].shape)
            assert image.rescaled[0] or len(plans) == 1
            return super().run(image, plans, outputs)

    measure(Watched(), 2, 1)
    assert set(seen) == {(100, 120, 0)}
    seen.clear()
    measure(Watched(), 1, 1)
    assert set(seen) == {(100, 120, 3)}


def test_answers_are_means_of_views_by_their_weights() -> None:
    plan = plan_views(slim_spec("A"), "multicrop+dense", (100, 120), [72])
    posterior = np.random.default_rng(0).random((2 * len(plan), 8), np.float32)
    first, second = mean_posteriors([plan, plan], {"posterior": posterior})
    weights = [view.weight for view in plan.views]
    expected = np.average(posterior.astype(np.float64).reshape(2, len(plan), 8), axis=1, weights=weights)
    assert np.allclose([first, second], expected, rtol=1e-12)
