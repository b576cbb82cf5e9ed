"""INT8 beside FP32: what it costs and what it saves, the numbers of docs/int8.md.

    python benchmarks/int8.py --net FP32 INT8.onnx [--net ...] --data DIR [--limit 400] [--protocol center]
    python benchmarks/int8.py --vgg [--rounds 2] [--openvino PYTHON] [--keep FOLDER]

--net: a net's checkpoint or FP32 .onnx and the INT8 model of it; both are evaluated on the same images of DIR. Error is
top-1; the drop is of pairs, with its 95 % interval, as evaluation.compare says it; ms are of the engine, an image.

--vgg: VGG-D at full size with random weights (the time does not depend on them), `multicrop+dense` at Q = 256, 384, 512
of one 500x375 JPEG (150 crops, 6 dense views), least of some rounds that take turns. Seconds by the clock, and of all
cores together, which tell more where others use the machine too:
  our FP32, our INT8   OnnxEngine on the `views` models, from the JPEG's bytes to the posterior
  OpenVINO             the `images` model on pixels cut beforehand, in calls of the same size: FP32, bfloat16, and INT8
                       as NNCF makes it by its defaults of 32 images, as ours is
PYTHON is of an environment that has OpenVINO and NNCF and nothing of ours, since they want another NumPy:
    python -m venv .venv-openvino && .venv-openvino/bin/pip install openvino==2026.4.1 nncf==3.4.0
Every figure stands below the CPU's name and its instructions for INT8: it is another on another CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from protocols import SCALES, cut_beforehand, photograph, random_checkpoint  # puts the packages on the path
from tabulate import tabulate

from evaluation.scores import table as tables
from evaluation.scores.comparison import compare
from export.to_onnx import export_onnx
from infer.onnx_engine import OnnxEngine
from infer.pixels.decode import decode
from infer.views import plan_views
from trainer.checkpoint import save

INSTRUCTIONS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Of x86, by lscpu's names: those for vectors, for INT8 and for bfloat16."""
SAMPLES = 32
RIVAL = Path(__file__).with_name("openvino_rival.py")

Seconds = tuple[float, float]
"""By the clock, and of all cores together."""
Rival = Callable[[], tuple[Seconds, NDArray[Any]]]
"""Takes one turn: how long it took, and the class of each view."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", nargs=2, action="append", type=Path, default=[], metavar=("FP32", "INT8.onnx"))
    parser.add_argument("--data", type=Path, help="images with labels, for --net")
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--protocol", default="center")
    parser.add_argument("--vgg", action="store_true", help="VGG-D's time by multicrop+dense")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--openvino", type=Path, metavar="PYTHON", help="of the environment with OpenVINO and NNCF")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where VGG-D's models are made, or lie already")
    args = parser.parse_args()
    if args.net and args.data is None:
        parser.error("--net: expected --data DIR, images with labels")
    if not args.net and not args.vgg:
        parser.error("expected --net FP32 INT8.onnx, --vgg, or both")

    print(f"{cpu()}; ONNX Runtime {onnxruntime.__version__}, load {os.getloadavg()[0]:.1f}\n")
    if args.net:
        rows = [row(*pair, args.data, args.protocol, args.limit) for pair in args.net]
        print(tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True), "\n")
    if args.vgg:
        with tempfile.TemporaryDirectory() as folder:
            place = args.keep or Path(folder)
            place.mkdir(parents=True, exist_ok=True)
            print(vgg(place, args.rounds, args.openvino))


def cpu() -> str:
    """The CPU's name, its cores, and which instructions it has for INT8 and which not, by lscpu."""
    lines = subprocess.check_output(["lscpu"], text=True, env={**os.environ, "LC_ALL": "C"}).splitlines()
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(said.get("Flags", "").split())
    has, lacks = ([one for one in INSTRUCTIONS if (one in flags) == there] for there in (True, False))
    return f"{said['Model name']}, {os.cpu_count()} cores; has {' '.join(has)}; has no {' '.join(lacks)}"


# What it costs


def row(single: Path, int8: Path, data: Path, protocol: str, limit: int) -> dict[str, str]:
    """A net's row: both models evaluated in one run, so that they see the same images on the same machine."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["evaluation.ilsvrc", "--engine", single, "--engine", int8, "--data", data, "--protocol", protocol]
        run([*command, "--limit", limit, "--out", folder])
        results = json.loads(Path(folder, "report.json").read_text())["results"]
        of_single, of_int8 = (result for result in results if result["engine_seconds"] is not None)
        paths = [next(Path(folder, "scores").glob(f"*.{one['runtime']}.*")) for one in (of_single, of_int8)]
        found = compare(*map(tables.parts, paths))

    low, high = found.top1_interval95_percent or (float("nan"),) * 2
    ms = [1000 * result["engine_seconds"] / result["images"] for result in (of_single, of_int8)]
    bytes_each = [path.stat().st_size for path in (single, int8)]
    return {
        "net": of_single["model"],
        "MB, FP32": f"{bytes_each[0] / 1e6:.2f}",
        "MB, INT8": f"{bytes_each[1] / 1e6:.2f}",
        f"error %, FP32, {protocol}": f"{of_single['top1_error_percent']:.2f}",
        "INT8": f"{of_int8['top1_error_percent']:.2f}",
        "drop, points": f"{found.top1_difference_percent:+.2f} [{low:+.2f}, {high:+.2f}]",
        "images": str(found.top1_pairs.images),
        "same class %": f"{found.top1_agreement_percent:.1f}",
        "ms, FP32": f"{ms[0]:.1f}",
        "ms, INT8": f"{ms[1]:.1f}",
        "times": f"{ms[1] / ms[0]:.2f}",
        "computed in": of_int8["arithmetic"],
    }


# What it saves


def vgg(folder: Path, rounds: int, python: Path | None) -> str:
    """VGG-D's table by multicrop+dense."""
    single, int8, images = (folder / name for name in ("vgg-d.onnx", "vgg-d-int8.onnx", "vgg-d-images.onnx"))
    make(folder, single, int8, images)
    jpeg = photograph(0)
    engines = {"our FP32": OnnxEngine(single), "our INT8": OnnxEngine(int8)}
    spec = engines["our FP32"].spec
    plan = plan_views(spec, "multicrop+dense", (375, 500), SCALES)

    def ours(engine: OnnxEngine) -> tuple[Seconds, NDArray[Any]]:
        started = time.perf_counter(), time.process_time()
        posterior = engine.run(engine.load([decode(jpeg)]), [plan], ("posterior", "pixel_sums"))["posterior"]
        return (time.perf_counter() - started[0], time.process_time() - started[1]), posterior.argmax(1)

    rivals: dict[str, Rival] = {name: functools.partial(ours, engine) for name, engine in engines.items()}
    notes = [f"{name}: {engine.arithmetic}" for name, engine in engines.items()]
    with contextlib.ExitStack() as stack:
        if python is not None:
            center = plan_views(spec, "center", (375, 500))
            samples = [cut_beforehand(decode(photograph(number)), center, spec)[0] for number in range(SAMPLES)]
            np.savez(folder / "calls.npz", *cut_beforehand(decode(jpeg), plan, spec))
            np.savez(folder / "samples.npz", *samples)
            rivals |= stack.enter_context(openvino_turns(python, folder, images, notes))
        seconds, classes = turns(rivals, rounds)

    rows = []
    for name, (wall, cores) in seconds.items():
        reference = classes["OpenVINO FP32" if name.startswith("OpenVINO") else "our FP32"]
        same = int((classes[name] == reference).sum())
        times = [f"{one / of_single:.2f}" for one, of_single in zip((wall, cores), seconds["our FP32"], strict=True)]
        rows.append((name, f"{wall:.2f}", times[0], f"{cores:.2f}", times[1], f"{same} of {len(reference)}"))
    headers = ["VGG-D, multicrop+dense, one image", "seconds", "times ours in FP32"]
    headers += ["seconds of cores", "times ours in FP32", "views of its own FP32's class"]
    return "\n".join([tabulate(rows, headers, tablefmt="pipe", disable_numparse=True), "", *notes])


def make(folder: Path, single: Path, int8: Path, images: Path) -> None:
    """The models of VGG-D that are not there yet, and photographs to calibrate on."""
    checkpoint = random_checkpoint("D", 1.0, 4096)
    for path, interface in ((single, "views"), (images, "images")):
        if not path.exists():
            export_onnx(checkpoint, path, interface=interface)
    if int8.exists():
        return
    photographs = folder / "photographs"
    for number in range(SAMPLES):
        place = photographs / f"class{number % 2}" / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(photograph(number))
    save(checkpoint, folder / "vgg-d.pt")
    run(["export.to_onnx", folder / "vgg-d.pt", "--precision", "int8", "--calibrate", photographs, "-o", int8])


@contextlib.contextmanager
def openvino_turns(python: Path, folder: Path, images: Path, notes: list[str]) -> Iterator[dict[str, Rival]]:
    """OpenVINO's turns, taken by a process of its own; what it says of itself goes to `notes`."""
    command = [python, RIVAL, images, folder / "calls.npz", folder / "samples.npz"]
    process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    asked, answers = process.stdin, process.stdout

    def answer() -> dict[str, Any]:
        for line in answers:
            if line.startswith("{"):  # NNCF says there what it does, too
                return dict(json.loads(line))
        sys.exit(f"{python} {RIVAL}: ended without an answer")

    def turn(name: str, precision: str) -> tuple[Seconds, NDArray[Any]]:
        print(precision, file=asked, flush=True)
        said = answer()
        note = f"{name}: {said['precision']}" + " beside INT8" * (precision == "int8")
        notes.extend([note] if note not in notes else [])
        return (said["seconds"], said["seconds_of_cores"]), np.array(said["classes"])

    about = answer()
    notes.append(f"OpenVINO {about['openvino']}, which finds {', '.join(about['capabilities'])} on this CPU")
    names = {"OpenVINO FP32": "f32", "OpenVINO bfloat16": "bf16", "OpenVINO INT8 (NNCF)": "int8"}
    try:
        yield {name: functools.partial(turn, name, precision) for name, precision in names.items()}
    finally:
        asked.close()
        process.wait()


def turns(rivals: dict[str, Rival], rounds: int) -> tuple[dict[str, Seconds], dict[str, NDArray[Any]]]:
    """The least seconds of each, in rounds in which everyone runs once, and the classes that it found."""
    seconds: dict[str, Seconds] = dict.fromkeys(rivals, (float("inf"),) * 2)
    classes = {}
    for _ in range(rounds):
        for name, rival in rivals.items():
            (wall, cores), classes[name] = rival()
            seconds[name] = min(seconds[name][0], wall), min(seconds[name][1], cores)
            print(f"{name}: {wall:.2f} s, {cores:.2f} s of cores, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return seconds, classes


def run(command: Sequence[object]) -> None:
    """Runs one of our commands; ends where it does not succeed."""
    if status := subprocess.call([sys.executable, "-m", *map(str, command)], stdout=sys.stderr):
        sys.exit(status)


if __name__ == "__main__":
    main()
