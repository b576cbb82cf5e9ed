"""The cost of evaluation beside the runtime's own calls: wall over engine time, the host alone, and memory.

    python benchmarks/evaluation.py [--part ratio|host|memory] [--images 5] [--slim-images 100]

ratio   `python -m evaluation.ilsvrc` as a user runs it, on 500x375 JPEGs: wall time over the seconds inside ONNX
        Runtime's run calls; VGG-D of full size, and slim nets A and GoogLeNet. Wall time is from the event "begin" of
        --log-json, when the model is open and the data listed, to "end", when the report is written; what comes
        before is told apart.
host    images a second of the host side on one core, with a session that returns at once: decode, rescale, index
        tables, plan, merge, digest, Parquet; beside the readers a user would pick instead, on the same files: Pillow
        and torchvision's transforms (where it is installed: .venv-torchvision), one crop an image.
memory  the peak of a run over 1,000 and over 10,000 images.
Random weights; the time does not depend on them.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

sys.path[0] = str(Path(__file__).resolve().parents[1])  # this file is not the package `evaluation`

from benchmarks.engines import MEASURED
from benchmarks.protocols import photograph, random_checkpoint
from evaluation.run.loop import make_shards
from evaluation.run.score import ScoreMaker
from evaluation.run.submission import Protocol
from evaluation.scores import table as scores
from export.to_onnx import export_onnx
from infer.data.dataset import Dataset, open_dataset
from infer.onnx_engine import OnnxEngine

SLIM = (("A", 0.125, 512), ("googlenet", 0.25, 4096))
OPERATORS = torch.library.Library("torchvision", "FRAGMENT")
FILES = 100
"""Different JPEGs; larger data sets name each of them several times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("ratio", "host", "memory"), nargs="+", default=["ratio", "host", "memory"])
    parser.add_argument(
        "--images", type=int, default=5, help="for VGG-D by multicrop, about 25 s each; four times as many by dense"
    )
    parser.add_argument("--slim-images", type=int, default=100)
    args = parser.parse_args()

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as folder:
        if "ratio" in args.part:
            ratio(Path(folder), args.images, args.slim_images)
        if "host" in args.part:
            host(Path(folder))
        if "memory" in args.part:
            memory(Path(folder))


def photographs(folder: Path, count: int) -> Path:
    """A data set of `count` images in two classes, FILES of them different."""
    root = folder / f"data-{count}"
    first: list[Path] = []
    for number in range(count):
        path = root / f"n{number % 2:08d}" / f"{number:06d}.jpeg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < FILES:
            path.write_bytes(photograph(number))
            first.append(path)
        else:
            os.link(first[number % FILES], path)
    return root


def exported(folder: Path, net: str, width: float, fc_width: int) -> Path:
    path = folder / f"{net}-{width:g}.onnx"
    if not path.exists():
        export_onnx(random_checkpoint(net, width, fc_width), path)
    return path


@dataclass(frozen=True)
class Ran:
    """A run as a user starts it; `seconds` from the first event to the last, all engines open and all images listed."""

    result: dict[str, Any]
    seconds: float
    before_seconds: float  # from the start of the process to its first event
    peak_bytes: int


def evaluate(engine: Path, data: Path, protocol: str, out: Path) -> Ran:
    """`python -m evaluation.ilsvrc`, timed by the events that it logs."""
    peak = out.with_suffix(".peak")
    command = [sys.executable, "-m", "evaluation.ilsvrc", "--engine", engine, "--data", data, "--protocol", protocol]

    times: dict[str, float] = {"start": time.perf_counter()}
    with subprocess.Popen(
        [sys.executable, "-c", MEASURED, peak, *command, "--out", out, "--log-json"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            times[json.loads(line)["event"]] = time.perf_counter()
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")

    result: dict[str, Any] = json.loads((out / "report.json").read_text())["results"][0]
    seconds = times["end"] - times["begin"]
    return Ran(result, seconds, times["begin"] - times["start"], int(peak.read_text()) * 1024)


def ratio(folder: Path, full_images: int, slim_images: int) -> None:
    rows = []
    for (net, width, fc_width), count in [(("D", 1.0, 4096), full_images), *((slim, slim_images) for slim in SLIM)]:
        engine = exported(folder, net, width, fc_width)
        for protocol, images in (("dense", 4 * count), ("multicrop", count)):  # of about the same work
            ran = evaluate(engine, photographs(folder, images), protocol, folder / f"{net}-{protocol}")
            inside, scales = ran.result["engine_seconds"], ",".join(map(str, ran.result["scales"]))
            over = ran.seconds / inside
            rows.append((net, f"{width:g}", protocol, scales, images, inside, ran.seconds, over, ran.before_seconds))
            print(*rows[-1], file=sys.stderr)
    headers = ("net", "width", "protocol", "Q", "images", "engine s", "wall s", "wall / engine", "start, s")
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("", "", "", "", "", ".1f", ".1f", ".3f", ".1f")), "\n")


class InstantSession:
    """Stands for ONNX Runtime's session: answers at once, with rows of the right shape."""

    def __init__(self, classes: int) -> None:
        self._posterior, self._sums = np.full((1000, classes), 1 / classes, np.float32), np.zeros((1000, 6), np.int32)

    def run(self, names: Sequence[str], feed: dict[str, Any]) -> list[Any]:
        views = len(feed["rows"])
        return [self._sums[:views] if name == "pixel_sums" else self._posterior[:views] for name in names]


def host(folder: Path) -> None:
    """Speeds on one core: so many images a second can a core feed to a fast GPU."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    engine = OnnxEngine(exported(folder, *SLIM[1]), threads=1)
    engine._session = InstantSession(len(engine.spec.classes))  # type: ignore[assignment]
    dataset, few = open_dataset(photographs(folder, 400)), open_dataset(photographs(folder, 400), limit=40)

    rivals: dict[str, Callable[[], int]] = {}
    for name, scales, data in (
        ("center", (256,), dataset),
        ("dense", (256, 384, 512), few),
        ("multicrop", (256, 384, 512), few),
        ("googlenet-144", (256, 288, 320, 352), few),
    ):
        said = f"ours, {name} at Q = {','.join(map(str, scales))}"
        rivals[said] = functools.partial(ours, engine, Protocol(name, scales), data, folder)
    rivals["decode alone (OpenCV, as ours)"] = lambda: decode_alone(dataset)
    rivals["Pillow: open, resize to 256, crop 224, normalise"] = lambda: pillow(dataset)
    transforms = torchvision_transforms()
    if transforms is not None:
        rivals["torchvision: ImageFolder with its VGG-16 transforms"] = lambda: torchvision(dataset, transforms)

    best = dict.fromkeys(rivals, 0.0)
    for _ in range(3):  # in turns, since machines drift
        for name, run in rivals.items():
            started = time.perf_counter()
            best[name] = max(best[name], run() / (time.perf_counter() - started))
    print(tabulate(list(best.items()), ["host side, one core", "images/s"], tablefmt="pipe", floatfmt=".0f"), "\n")


def ours(engine: OnnxEngine, protocol: Protocol, dataset: Dataset, folder: Path) -> int:
    """Everything but the runtime: from the files to the score table."""
    shards = make_shards(ScoreMaker([engine], [[protocol]], dataset, "scores"), dataset.items)
    scores.write((shard.rows[0][0].scores for shard in shards), folder / "host.parquet")
    return len(dataset.items)


def decode_alone(dataset: Dataset) -> int:
    from infer.pixels.decode import decode

    for item in dataset.items:
        decode(item.read_bytes())
    return len(dataset.items)


def pillow(dataset: Dataset) -> int:
    """The usual script's reader: the shorter side to 256, the centre 224x224, floats with the mean subtracted."""
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    for item in dataset.items:
        image = Image.open(io.BytesIO(item.read_bytes())).convert("RGB")
        width, height = image.size
        short = min(width, height)
        image = image.resize((width * 256 // short, height * 256 // short), Image.Resampling.BILINEAR)
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 255
        np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))
    return len(dataset.items)


def torchvision_transforms() -> Callable[[Any], Any] | None:
    if importlib.util.find_spec("torchvision") is None:
        return None
    if torch.version.cuda is None:  # torchvision's wheel is linked with CUDA: its operators must at least be declared
        OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from torchvision.models import VGG16_Weights

    transforms: Callable[[Any], Any] = VGG16_Weights.IMAGENET1K_V1.transforms()
    return transforms


def torchvision(dataset: Dataset, transforms: Callable[[Any], Any]) -> int:
    from torchvision.datasets import ImageFolder

    folder = ImageFolder(str(dataset.root), transforms)
    for number in range(len(folder)):
        folder[number]
    return len(folder)


def memory(folder: Path) -> None:
    rows = []
    for count in tqdm((1000, 10_000), desc="memory", disable=None):
        ran = evaluate(exported(folder, *SLIM[0]), photographs(folder, count), "center", folder / f"m{count}")
        rows.append((f"{count:,}", f"{ran.peak_bytes / 1e6:.0f}"))
    print(tabulate(rows, ["images (net A at an eighth, center)", "peak memory, MB"], tablefmt="pipe"))


if __name__ == "__main__":
    main()
