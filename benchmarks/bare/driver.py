"""infer/cuda on the driver: order, events, graphs, memory that ends, what is left, all beside torch's context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import INFER

NEEDS = (*INFER, "cuda.bindings.driver")


def run(folder: Path, rehearse: bool) -> tuple[dict[str, Any], list[str]]:
    import numpy as np
    import torch

    from infer.cuda.device import Device
    from infer.cuda.driver import CudaError

    on_gpu = torch.cuda.is_available()
    nbytes = (256 << 20) if on_gpu else (1 << 16)
    for _ in range(3):  # alone in the process: come and go
        Device().close()
    if on_gpu:
        torch.zeros(1, device="cuda")
    device = Device()
    found: dict[str, Any] = {"binding": device.driver.binding, "name": device.name, "target": device.target}
    wrong = []

    def check(what: str, right: bool) -> None:
        if not right:
            wrong.append(what)

    with device.current():
        stream, other = device.stream(), device.stream()
        sent, back, memory = device.pin(nbytes), device.pin(nbytes), device.allocate(nbytes)
        sent.array[:] = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
        start, end, done = device.event(timing=True), device.event(timing=True), device.event()

        # up on one stream, down on another one that waits for it
        device.driver.record(start, stream)
        device.driver.copy_in(memory.address, sent.array, stream)
        device.driver.record(end, stream)
        device.driver.wait(other, end)
        device.driver.copy_out(back.array, memory.address, other)
        device.driver.record(done, other)
        found["the host went on"] = not device.driver.reached(done)
        device.driver.synchronize(done)
        check("bytes that came back differ", bool((back.array == sent.array).all()))
        if on_gpu:
            found["GB/s to the GPU, pinned"] = round(nbytes / 1e6 / device.driver.elapsed_ms(start, end), 1)

        # a graph runs when it is launched, not when it is captured
        back.array[:] = 0
        graph = device.capture(stream, lambda: device.driver.copy_out(back.array, memory.address, stream))
        check("a captured copy ran at once", not back.array.any())
        device.driver.launch(graph, stream)
        device.driver.record(done, stream)
        device.driver.synchronize(done)
        check("a launched copy did not run", bool((back.array == sent.array).all()))

        # memory that there is not, and memory that comes back
        before = device.driver.memory_info().free_bytes
        try:
            device.allocate(1 << 50)
            wrong.append("a petabyte was given")
        except CudaError as error:
            found["a petabyte"] = str(error)
        for _ in range(20):
            device.free(device.allocate(nbytes))
        found["bytes lost by 20 allocations"] = before - device.driver.memory_info().free_bytes
        check("memory was lost", found["bytes lost by 20 allocations"] <= 0)
    device.close()
    if on_gpu:
        check("torch cannot go on", float(torch.ones(3, device="cuda").sum()) == 3.0)
    return found, wrong
