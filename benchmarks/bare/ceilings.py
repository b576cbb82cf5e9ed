"""What the card itself can do, to say a share of: matrix product, cuDNN's convolutions, copies, decoding of JPEG."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import HELPERS

NEEDS = HELPERS
BATCHES = ((1, 224, 224), (50, 224, 224), (150, 224, 224), (2, 256, 341), (2, 512, 683))
"""Views and their sides: a crop, the crops of one scale, of three, dense views and their mirror images."""


def run(folder: Path, rehearse: bool) -> tuple[dict[str, Any], list[str]]:
    import torch
    from helpers import full_spec, random_net, slim_spec

    place = "cpu" if rehearse else "cuda"
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {}
    side = 64 if rehearse else 8192
    for kind in (torch.float16, torch.float32):
        a = torch.randn(side, side, device=place, dtype=kind)
        found[f"matrix product, {kind}: TFLOP/s"] = round(2 * side**3 / milliseconds(lambda a=a: a @ a, place) / 1e9, 1)
    block = torch.empty((1 << 20) if rehearse else (4 << 30), dtype=torch.uint8, device=place)
    other = torch.empty_like(block)
    moved = 2 * block.numel() / milliseconds(lambda: other.copy_(block), place) / 1e6
    found["copy within the card: GB/s, read and written"] = round(moved, 1)

    for name in ("D", "googlenet"):
        net = random_net(slim_spec(name) if rehearse else full_spec(name)).to(place).half().eval()
        net = net.to(memory_format=torch.channels_last)
        for views, height, width in BATCHES[:1] if rehearse else BATCHES:
            x = torch.randn(views, 3, height, width, device=place, dtype=torch.half)
            x = x.to(memory_format=torch.channels_last)
            with torch.inference_mode():
                found[f"{name}, {views}x{height}x{width}: ms by cuDNN in half"] = round(
                    milliseconds(lambda x=x, net=net: net(x), place), 3
                )
                if not rehearse:
                    found[f"{name}, {views}x{height}x{width}: ms as one CUDA graph"] = round(as_graph(net, x), 3)
    return found | decoding(rehearse), []


def milliseconds(work: Callable[[], Any], place: str, runs: int = 10) -> float:
    """Of one run, after three to warm up."""
    import torch

    for _ in range(3):
        work()
    if place == "cpu":
        started = time.perf_counter()
        for _ in range(runs):
            work()
        return (time.perf_counter() - started) * 1e3 / runs
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(runs):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / runs


def as_graph(net: Any, x: Any) -> float:
    import torch

    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        net(x)
    return milliseconds(graph.replay, "cuda")


def decoding(rehearse: bool) -> dict[str, Any]:
    from infer.benchmark.measure import synthetic_jpeg
    from infer.pixels.decode import decode

    data, found = synthetic_jpeg(), {}
    for threads in sorted({1, os.cpu_count() or 1}):
        count = 4 * threads if rehearse else 40 * threads
        with ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            list(pool.map(lambda _: decode(data), range(count)))
        found[f"JPEG of 500x375 decoded, {threads} threads: images/s"] = round(count / (time.perf_counter() - started))
    return found
