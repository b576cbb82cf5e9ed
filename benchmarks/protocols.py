"""The view graph beside what else a user might run: VGG-D on one JPEG by the heaviest protocol, and in bulk.

    python benchmarks/protocols.py [--net D] [--width 1] [--fc-width 4096] [--part both|image|bulk] [--rounds 2]

Part 1, `multicrop+dense` at Q = 256, 384, 512 of one 500x375 JPEG (150 crops, 6 dense views), wall time from the
JPEG's bytes to the posterior, least of some rounds that take turns:
  ours            OnnxEngine on the `views` model
  bare session    ONNX Runtime on the `images` model, pixels cut beforehand, calls of the same size
  torch, batches  our TorchEngine (channels last)
  torch, loop     the usual script: each crop resized and cut by Pillow, one forward pass each (once)
  OpenVINO        the `images` model in FP32 (its default on this kind of CPU is bfloat16), calls of the same size
Part 2, `center` over many such JPEGs: the evaluation's runner beside the bare session on ready batches, in turns.
Random weights; the time does not depend on them.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])  # `evaluation` is the package, not the benchmark beside this

from evaluation.run.loop import make_shards
from evaluation.run.score import ScoreMaker
from evaluation.run.submission import Protocol
from export.to_onnx import export_onnx
from infer.data.dataset import Dataset, open_dataset
from infer.onnx_engine import CALL_PIXELS, OnnxEngine
from infer.pixels.decode import decode
from infer.pixels.render import render
from infer.spec import ModelSpec, Preprocessing
from infer.views import ViewPlan, plan_views
from trainer.checkpoint import Checkpoint
from trainer.loop.start import start_weights
from trainer.nets.zoo import build_net
from trainer.torch_engine import TorchEngine

SCALES = (256, 384, 512)
SLICE = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", default="D")
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--fc-width", type=int, default=4096)
    parser.add_argument("--part", choices=("both", "image", "bulk"), default="both")
    parser.add_argument("--bulk", type=int, default=200, help="JPEGs of part 2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only-onnx", action="store_true", help="leave out torch and OpenVINO")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        checkpoint = random_checkpoint(args.net, args.width, args.fc_width)
        views, images = Path(folder) / "views.onnx", Path(folder) / "images.onnx"
        export_onnx(checkpoint, views)
        export_onnx(checkpoint, images, interface="images")
        print(f"net {args.net}, width {args.width:g}, {onnxruntime.__version__=}, {torch.get_num_threads()} threads")
        if args.part != "bulk":
            one_image(checkpoint, views, images, args.rounds, args.only_onnx)
        if args.part != "image":
            bulk(views, images, Path(folder), args.bulk)


def random_checkpoint(net: str, width: float, fc_width: int) -> Checkpoint:
    classes = tuple(f"n{i:08d}" for i in range(1000))
    spec = ModelSpec(
        net.lower(), net, classes, Preprocessing((123.68, 116.779, 103.939)), (256, 512), width=width, fc_width=fc_width
    )

    torch.manual_seed(0)
    built = build_net(spec)
    start_weights(built, "he")
    return Checkpoint(spec, dict(built.state_dict()))


def photograph(seed: int) -> bytes:
    """A 500x375 JPEG: a real photograph, shifted by `seed` so that no two are the same."""
    from skimage import data

    pixels = np.roll(data.coffee(), seed, axis=(0, 1))
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def one_image(checkpoint: Checkpoint, views: Path, images: Path, rounds: int, only_onnx: bool) -> None:
    jpeg, spec = photograph(0), checkpoint.spec
    pixels = decode(jpeg)
    plan = plan_views(spec, "multicrop+dense", (375, 500), SCALES)
    calls = cut_beforehand(pixels, plan, spec)
    engine, session = OnnxEngine(views), onnxruntime.InferenceSession(str(images), providers=["CPUExecutionProvider"])

    def ours() -> None:
        engine.run(engine.load([decode(jpeg)]), [plan], ("posterior", "pixel_sums"))

    def bare() -> None:
        for call in calls:
            session.run(["posterior"], {"images": call})

    rivals: dict[str, Callable[[], None]] = {"ours": ours, "bare session, pixels cut beforehand": bare}
    if not only_onnx:
        import openvino

        compiled = openvino.Core().compile_model(str(images), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        output = compiled.output("posterior")
        torch_engine = TorchEngine(checkpoint)

        def openvino_calls() -> None:
            for call in calls:
                compiled([call])[output]

        rivals["torch, batches (TorchEngine)"] = lambda: void(torch_engine.run(torch_engine.load([pixels]), [plan]))
        rivals["OpenVINO, pixels cut beforehand"] = openvino_calls
    seconds = take_turns(rivals, rounds)
    if not only_onnx:
        net = checkpoint.build()
        seconds["torch, loop (one crop at a time)"] = timed(lambda: usual_loop(net, spec, jpeg, plan))
    rows = [(name, f"{taken:.2f}", f"{taken / seconds['ours']:.2f}") for name, taken in seconds.items()]
    print(tabulate(rows, headers=["multicrop+dense, one image", "seconds", "times ours"], tablefmt="pipe"))
    ratio = seconds["ours"] / seconds["bare session, pixels cut beforehand"]
    print(f"ours / bare session: {ratio:.3f}\n")


def cut_beforehand(pixels: NDArray[np.uint8], plan: ViewPlan, spec: ModelSpec) -> list[NDArray[np.uint8]]:
    """The views as u8 batches [N, h, w, 3] of the size that OnnxEngine's calls have."""
    by_size: dict[tuple[int, ...], list[NDArray[np.uint8]]] = {}
    for view in render(pixels, plan.views, spec):
        by_size.setdefault(view.shape, []).append(view)

    calls = []
    for (height, width, _), same in by_size.items():
        most = max(1, CALL_PIXELS // (height * width))
        calls += [np.stack(same[start : start + most]) for start in range(0, len(same), most)]
    return calls


@torch.inference_mode()
def usual_loop(net: torch.nn.Module, spec: ModelSpec, jpeg: bytes, plan: ViewPlan) -> None:
    mean = torch.tensor(spec.preprocessing.mean_rgb)
    posterior = torch.zeros(len(spec.classes))
    for view in plan.views:
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        short = min(image.size)
        size = [(side * view.short_side_px + short // 2) // short for side in image.size]
        top, left, height, width = view.box
        crop = image.resize((size[0], size[1]), Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
        x = (torch.from_numpy(np.array(crop)) - mean).permute(2, 0, 1)[None]
        x = x.flip(3) if view.mirrored else x
        posterior += view.weight * torch.softmax(net(x).mean((2, 3)), 1)[0]


def bulk(views: Path, images: Path, folder: Path, count: int) -> None:
    """`center` over `count` JPEGs: the evaluation as a user runs it, and the session on batches made beforehand."""
    for number in range(count):
        path = folder / "data" / f"n{number % 1000:08d}" / f"{number}.jpeg"
        path.parent.mkdir(parents=True)
        path.write_bytes(photograph(number))

    dataset, engine = open_dataset(folder / "data"), OnnxEngine(views)
    protocol = Protocol("center", (256,))
    ready = np.stack(
        [
            render(decode(item.read_bytes()), plan_views(engine.spec, "center", (375, 500), (256,)).views, engine.spec)[
                0
            ]
            for item in dataset.items
        ]
    )
    session = onnxruntime.InferenceSession(str(images), providers=["CPUExecutionProvider"])
    per_call = CALL_PIXELS // 224**2
    rows = []
    for start in range(0, count, SLICE):  # in turns, since machines drift; the first slice warms up
        part = replace(dataset, items=dataset.items[start : start + SLICE])

        def bare(first: int = start, last: int = min(start + SLICE, count)) -> None:
            for place in range(first, last, per_call):
                session.run(["posterior"], {"images": ready[place : min(place + per_call, last)]})

        def whole(part: Dataset = part) -> None:
            list(make_shards(ScoreMaker([engine], [[protocol]], part, "scores"), part.items))

        rows.append((len(part.items) / timed(whole), len(part.items) / timed(bare)))
    ratio = statistics.median(ours / theirs for ours, theirs in rows[1:] or rows)
    print(
        tabulate(
            rows, headers=["evaluation, images/s", "bare session on ready batches"], floatfmt=".2f", tablefmt="pipe"
        )
    )
    print(f"center, {count} JPEGs, slices of {SLICE}: median ratio {ratio:.3f}")


def take_turns(rivals: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """The least seconds of each, in rounds in which everyone runs once."""
    best = dict.fromkeys(rivals, float("inf"))
    for _ in range(rounds):
        for name, run in rivals.items():
            best[name] = min(best[name], timed(run))
    return best


def timed(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def void(_: object) -> None:
    """For lambdas that return something."""


if __name__ == "__main__":
    main()
