"""The C++ app beside `python -m infer`, and what libverydeep costs over the engine's own time. Prints markdown tables.

    make cpp && python benchmarks/embedded.py [--build .cpp-build/plain] [--rounds 3]

processes  each from its start to its end, in turns: `--help`; one JPEG of 500x375 with a VGG-D of 1/64 of the width,
           most of which is the start of the runtime; and VGG-D of full size (FP32, `center`): when the answer for one
           JPEG came, and for IMAGES of them seconds an image after the first batch, and the peak of memory.
overhead   in one process, in turns: `vd_classify_file` by the C interface (decode, plan, rescale, run, average), and
           a bare session of ONNX Runtime that is given the same inputs, made beforehand. On VGG-D both take so long
           that a difference of milliseconds drowns in what else the machine does; so what the host does is measured
           with a VGG-D of 1/64 of the width on one thread, where the same inputs leave little to compute, and
           divided by VGG-D's own time.
Random weights; the time does not depend on them. Model files are read from memory: they have just been written.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.engines import MEASURED
from benchmarks.protocols import photograph, random_checkpoint
from export.to_onnx import export_onnx
from infer.classify import BATCH
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import read
from infer.views import default_scales, plan_views

IMAGES = 3 * BATCH
PROTOCOLS = ("center", "ten-crop", "dense")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", type=Path, default=Path(".cpp-build/plain"), help="of infer/cpp, by make cpp")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    app, library = args.build / "verydeep-classify", args.build / "libverydeep.so"
    if not app.exists():
        parser.error(f"{app} is not there: make cpp")

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ONNX Runtime {onnxruntime.__version__}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engines = {}
        for kind, width, fc_width in (("full", 1.0, 4096), ("slim", 1 / 64, 16)):
            engines[kind] = folder / f"{kind}.onnx"
            export_onnx(random_checkpoint("D", width, fc_width), engines[kind])

        images = []
        for number in range(IMAGES):
            images.append(folder / f"{number:02d}.jpeg")
            images[-1].write_bytes(photograph(number))
        processes(app, engines, images, args.rounds)
        overhead(library, engines, images[0], args.rounds)


def processes(app: Path, engines: dict[str, Path], images: Sequence[Path], rounds: int) -> None:
    commands = {"verydeep-classify": [str(app)], "python -m infer": [sys.executable, "-m", "infer"]}
    seen: dict[str, list[tuple[float, ...]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            helped = min(ran([*command, "--help"])[-1] for _ in range(3))
            small = min(ran([*command, "--engine", engines["slim"], images[0]])[-1] for _ in range(3))
            first = ran([*command, "--engine", engines["full"], images[0]])[0]
            peak = engines["full"].with_suffix(".peak")
            lines = ran([sys.executable, "-c", MEASURED, peak, *command, "--engine", engines["full"], *images])
            steady = (lines[IMAGES - 1] - lines[BATCH - 1]) / (IMAGES - BATCH)
            seen[name].append((1e3 * helped, 1e3 * small, first, steady, int(peak.read_text()) / 1e3))
            print(name, *seen[name][-1], file=sys.stderr)

    rows = [(name, *map(statistics.median, zip(*values, strict=True))) for name, values in seen.items()]
    headers = ("", "--help, ms", "slim net, ms", "VGG-D: first answer, s", "s an image", "peak memory, MB")
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("", ".0f", ".0f", ".2f", ".3f", ".0f")), "\n")


def ran(command: Sequence[object]) -> list[float]:
    """Seconds from the start of a command to each line that it printed, and to its end."""
    started = time.perf_counter()
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        times = [time.perf_counter() - started for _ in process.stdout]
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return [*times, time.perf_counter() - started]


def overhead(library: Path, engines: dict[str, Path], image: Path, rounds: int) -> None:
    rows = []
    for protocol in PROTOCOLS:
        calls = rounds * (10 if protocol == "center" else 1)
        full = in_turns(library, engines["full"], protocol, image, 0, calls)
        slim = in_turns(library, engines["slim"], protocol, image, 1, 10 * calls)
        alone, host = statistics.median(bare for bare, _ in full), statistics.median(ours - bare for bare, ours in slim)
        more = statistics.median(ours / bare for bare, ours in full) - 1
        rows.append((protocol, len(full), alone, 100 * more, 1e3 * host, 100 * host / alone))
        print(*rows[-1], file=sys.stderr)
    headers = ("VGG-D", "pairs", "engine alone, s", "libverydeep takes more, %", "host, ms", "host / engine, %")
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("", "", ".3f", ".1f", ".2f", ".2f")), "\n")


def in_turns(
    library: Path, path: Path, protocol: str, image: Path, threads: int, calls: int
) -> list[tuple[float, float]]:
    """Seconds of an image by a bare session and by libverydeep, call by call."""
    bare = bare_session(path, protocol, image, threads)
    with by_library(library, path, protocol, image, threads) as ours:
        pairs = [(timed(bare), timed(ours)) for _ in range(calls + 1)]
    return pairs[1:]  # the first calls of a session take longer


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_session(path: Path, protocol: str, image: Path, threads: int) -> Callable[[], None]:
    engine, pixels = OnnxEngine(path, threads=threads), read(image)
    session: Any = engine._session
    feeds: list[dict[str, Any]] = []

    class Listener:
        def run(self, names: Sequence[str], feed: dict[str, Any]) -> Any:
            feeds.append(feed)
            return session.run(names, feed)

    engine._session = Listener()
    spec, size = engine.spec, (pixels.shape[0], pixels.shape[1])
    engine.run(engine.load([pixels]), [plan_views(spec, protocol, size, default_scales(spec, protocol))])

    def run() -> None:
        for feed in feeds:
            session.run(["posterior"], feed)

    return run


class Options(ctypes.Structure):
    """vd_options of verydeep.h."""

    _fields_ = (
        ("protocol", ctypes.c_char_p),
        ("scales", ctypes.c_void_p),
        ("scale_count", ctypes.c_size_t),
        ("device", ctypes.c_int),
        ("cuda", ctypes.c_int),
        ("threads", ctypes.c_int),
        ("self_test", ctypes.c_int),
    )


@contextlib.contextmanager
def by_library(library: Path, path: Path, protocol: str, image: Path, threads: int) -> Iterator[Callable[[], None]]:
    loaded = ctypes.CDLL(str(library))
    loaded.vd_last_error.restype = ctypes.c_char_p
    classifier, options = ctypes.c_void_p(), Options(protocol.encode(), None, 0, 0, 0, threads, 0)
    if loaded.vd_open(str(path).encode(), ctypes.byref(options), ctypes.byref(classifier)):
        raise SystemExit(loaded.vd_last_error().decode())
    best = ctypes.create_string_buffer(5 * 32)  # five vd_prediction
    name = str(image).encode()

    def run() -> None:
        count = ctypes.c_size_t(5)
        if loaded.vd_classify_file(classifier, name, best, ctypes.byref(count)):
            raise SystemExit(loaded.vd_last_error().decode())

    yield run
    loaded.vd_close(classifier)


if __name__ == "__main__":
    main()
