"""Images a second that the decoders give, on one core and in two threads, all in one run.

    python benchmarks/decoders.py [--image FILE ...] [--rounds 200]

`opencv` is OpenCV as `decode` calls it, the header read first; `decode` is what evaluations call: simplejpeg
where its pixels are OpenCV's (infer/pixels/plain_jpeg.py); `simplejpeg` is the bare library, into a new array and into
one that is there already. The decoders take turns, so that what else the machine does meets all of them; a round is one
image, or some in each of two threads, and the fastest tenth of the rounds counts. A decoder whose two threads give no
more than one, on two cores that are free, holds Python's lock. The last column has two processes in place of two
threads, whose pixels come back in shared memory: what evaluations would gain, or lose, by decoding so.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import shared_memory
from multiprocessing.queues import Queue
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import cv2
import numpy as np
import simplejpeg
from tabulate import tabulate

import infer.pixels.decode as decode_module
from infer.benchmark.measure import synthetic_jpeg
from infer.pixels.plain_jpeg import equal_decoder

THREADS = 2
IMAGES_A_TURN = 8
"""Images that a thread decodes in a round of several threads, so that starting it does not count."""
TURNS = 4
"""Turns of each process in a round: one that is faster takes another's."""

Decoder = Callable[[bytes], object]


def decoders(data: bytes) -> dict[str, Decoder]:
    """Every decoder by its name; `data` says how large the caller's array is."""
    opencv = functools.partial(_by_opencv, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    into = np.empty_like(decode_module.decode(data))
    return {
        "opencv": opencv,
        "decode": decode_module.decode,
        "simplejpeg": lambda data: simplejpeg.decode_jpeg(data, "RGB"),
        "simplejpeg into an array": lambda data: simplejpeg.decode_jpeg(data, "RGB", buffer=into),
    }


def _by_opencv(flags: int, data: bytes) -> object:
    """As `decode` without simplejpeg: the header is read first."""
    decode_module.read_header(data)
    return decode_module._decoded(data, flags)


def images_per_second(found: dict[str, Decoder], data: bytes, rounds: int, threads: int) -> dict[str, float]:
    """Of each decoder, where a tenth of the rounds are faster."""
    count = IMAGES_A_TURN if threads > 1 else 1

    def several(decoder: Decoder) -> None:
        for _ in range(count):
            decoder(data)

    seconds: dict[str, list[float]] = {name: [] for name in found}
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            for name, decoder in found.items():
                started = time.perf_counter()
                if threads == 1:
                    several(decoder)
                else:
                    list(pool.map(several, [decoder] * threads))
                seconds[name].append(time.perf_counter() - started)
    return {name: threads * count / float(np.quantile(own, 0.1)) for name, own in seconds.items()}


_SHARED: list[tuple[shared_memory.SharedMemory, bytes, dict[str, Decoder]]] = []
"""In a process that decodes: the memory that its pixels go to, the image, the decoders."""


def _attach(names: Queue[str], data: bytes) -> None:
    _SHARED.append((shared_memory.SharedMemory(names.get()), data, decoders(data)))


def _decode_shared(name: str) -> None:
    memory, data, found = _SHARED[0]
    for _ in range(IMAGES_A_TURN):
        pixels = np.asarray(found[name](data))
        np.frombuffer(memory.buf, np.uint8, pixels.size)[:] = pixels.reshape(-1)


def in_processes(found: dict[str, Decoder], data: bytes, rounds: int) -> dict[str, float]:
    """Of each decoder in THREADS processes, as images_per_second."""
    context = multiprocessing.get_context("spawn")
    nbytes = decode_module.decode(data).nbytes
    blocks = [shared_memory.SharedMemory(create=True, size=nbytes) for _ in range(THREADS)]
    names: Queue[str] = context.Queue()
    for block in blocks:
        names.put(block.name)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    try:
        with ProcessPoolExecutor(THREADS, context, _attach, (names, data)) as pool:
            list(pool.map(_decode_shared, ["decode"] * 8 * THREADS))  # every process is there
            for _ in range(rounds):
                for name in found:
                    started = time.perf_counter()
                    list(pool.map(_decode_shared, [name] * THREADS * TURNS))
                    seconds[name].append(time.perf_counter() - started)
    finally:
        for block in blocks:
            block.close()
            block.unlink()
    return {name: THREADS * TURNS * IMAGES_A_TURN / float(np.quantile(own, 0.1)) for name, own in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--image", type=Path, nargs="+", default=[], help="default: a synthetic JPEG of 500x375 px")
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    images = {str(path): path.read_bytes() for path in args.image} or {"synthetic, 500x375": synthetic_jpeg()}

    build = next(line for line in cv2.getBuildInformation().splitlines() if line.strip().startswith("JPEG:"))
    print(f"OpenCV {cv2.__version__} ({build.split(':')[1].strip()}), simplejpeg {simplejpeg.__version__}")
    print(f"{platform.machine()}, {os.cpu_count()} cores; decode takes", "simplejpeg" if equal_decoder() else "OpenCV")

    rows = []
    for name, data in images.items():
        found = decoders(data)
        one, two = (images_per_second(found, data, args.rounds, threads) for threads in (1, THREADS))
        processes = in_processes(found, data, -(-args.rounds // TURNS))
        for decoder, rate in one.items():
            both = two[decoder], processes[decoder]
            rows.append((name, f"{len(data) / 1e3:.0f}", decoder, rate, rate / one["opencv"], *both))
    headers = ["image", "kB", "decoder", "images/s", "over opencv", f"{THREADS} threads", f"{THREADS} processes"]
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("", "", "", ".0f", ".2f", ".0f", ".0f")))


if __name__ == "__main__":
    main()
