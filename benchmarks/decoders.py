"""Images a second that the decoders give, on one core and in two threads, all in one run.

    python benchmarks/decoders.py [--image FILE ...] [--rounds 200]

`opencv` is OpenCV as `decode` calls it, the header read first; `decode` is what evaluations call: simplejpeg
where its pixels are OpenCV's (infer/pixels/plain_jpeg.py); `simplejpeg` is the bare library, into a new array and into
one that is there already. The decoders take turns, so that what else the machine does meets all of them; a round is one
image, or some in each of two threads, and the fastest tenth of the rounds counts. A decoder whose two threads give no
more than one, on two cores that are free, holds Python's lock.
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
        for decoder, rate in one.items():
            rows.append((name, f"{len(data) / 1e3:.0f}", decoder, rate, rate / one["opencv"], two[decoder]))
    headers = ["image", "kB", "decoder", "images/s", "over opencv", f"images/s, {THREADS} threads"]
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("", "", "", ".0f", ".2f", ".0f")))


if __name__ == "__main__":
    main()
