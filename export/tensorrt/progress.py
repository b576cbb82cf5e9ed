"""A build that shows how far it is and that Ctrl-C ends: the library's progress monitor, and a thread to build in.

The builder runs for seconds to minutes without returning to Python, so that no signal would be handled. So it is left
to a thread, while the main thread waits, takes the signal and tells the monitor, whose next answer stops the build.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


class Phases:
    """Phases of a build within each other, and the share of the whole that is done."""

    def __init__(self) -> None:
        self.active: dict[str, _Phase] = {}
        self.done = 0.0  # never goes back

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self.active[name] = _Phase(parent, max(steps, 1))

    def step(self, name: str, index: int) -> None:
        if name in self.active:
            self.active[name].finished = index + 1
        self._update()

    def finish(self, name: str) -> None:
        phase = self.active.pop(name, None)
        if phase is not None and phase.parent is None:
            self.done = 1.0

    def _update(self) -> None:
        roots = [name for name, phase in self.active.items() if phase.parent is None]
        self.done = max([self.done, *map(self._share, roots)])

    def _share(self, name: str) -> float:
        """Steps that are done, and as part of the next one the phases within."""
        phase = self.active[name]
        within = [self._share(child) for child, other in self.active.items() if other.parent == name]
        return min((phase.finished + min(sum(within), 1.0)) / phase.steps, 1.0)


class _Phase:
    def __init__(self, parent: str | None, steps: int) -> None:
        self.parent, self.steps, self.finished = parent, steps, 0


def monitor(trt: Any, bar: tqdm[Any], stop: threading.Event) -> Any:
    """A progress monitor that moves `bar` (of 1.0) and ends the build once `stop` is set. TensorRT calls it from
    several threads at once; it must not raise."""
    phases, lock = Phases(), threading.Lock()

    def __init__(self: Any) -> None:
        trt.IProgressMonitor.__init__(self)

    def phase_start(self: Any, name: str, parent: str | None, steps: int) -> None:
        with lock:
            phases.start(name, parent, steps)

    def step_complete(self: Any, name: str, index: int) -> bool:
        with lock:
            phases.step(name, index)
            bar.update(phases.done - bar.n)
        return not stop.is_set()

    def phase_finish(self: Any, name: str) -> None:
        with lock:
            phases.finish(name)
            bar.update(phases.done - bar.n)

    methods = (__init__, phase_start, step_complete, phase_finish)
    return type("Monitor", (trt.IProgressMonitor,), {method.__name__: method for method in methods})()


def progress_bar() -> tqdm[Any]:
    """A bar on a terminal, none in a pipe."""
    return tqdm(total=1.0, desc="building", disable=None, leave=False, bar_format="{desc} {percentage:3.0f} %|{bar}|")


def interruptible(work: Callable[[threading.Event], Result]) -> Result:
    """`work(stop)` in a thread of its own; Ctrl-C sets `stop`, waits for `work` to end and is raised here."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            future = pool.submit(work, stop)
            while not wait([future], timeout=0.2).done:
                pass  # but handle the signals that came meanwhile, whichever thread took them
            return future.result()
        except BaseException:
            stop.set()
            raise
