"""The host's speed where the engine costs nothing: images a second that it can feed to a GPU, by each protocol.

    python benchmarks/host.py [--images 400] [--cores 1,2] [--before COMMIT] [--shares] [--free-decoding]

`python -m evaluation.ilsvrc` runs as a user runs it, on different 500x375 JPEGs of about ILSVRC's size, with a plan for
TensorRT: the engine's own code on a simulated CUDA driver whose copies are real (tests/cudasim), and a runtime that
answers at once (benchmarks/costless.py). A rate is of the images beyond the first few, so that what comes once, such as
starting Python, does not count; all else does: reading, SHA-256, decoding, plans, inputs, copies, averages, score
files, report. `--before` measures a commit, too, in turns. `--shares` says where the CPU's time goes.
`--free-decoding` is a machine of many cores as far as two can be one: a decoder pauses for a millisecond and then has
the pixels, so that with many workers all that is left is what one process has to do itself.

In the same run the inputs of some images are kept, as the engine made them. Afterwards ONNX Runtime answers to them:
the rows and the sums of the pixels seen must be those of the CPU engine, which rescales by Pillow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[1]
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]  # this file's folder has a module of another package's name

import cudasim

from benchmarks.evaluation import photographs

SHARE = {"center": 2, "dense": 1, "multicrop": 1, "googlenet-144": 1}
"""How much of --images each protocol sees."""
FEW = 80
"""Images of the run that is subtracted."""

PROGRAM = """
import sys
tree, home, folder, protocol, cores, workers, few, all_images, data, shares, free = sys.argv[1:]
import contextlib, functools, importlib, io, json, os, resource, threading, time
from pathlib import Path
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
import costless
costless.install("tensorrt", "11.4.0.106")
from helpers import full_spec, write_checkpoint
from plans import write_plan
from export.to_onnx import export_onnx
from trainer.checkpoint import load
import numpy as np
import onnxruntime
from evaluation import ilsvrc
from infer.engine import load_on_host
from infer.onnx_engine import OnnxEngine
from infer.tensorrt.engine import TensorRTEngine
from infer.views import ViewPlan, numbered_views

KEEP = 6  # calls whose inputs are kept
folder = Path(folder)
net = "googlenet" if protocol == "googlenet-144" else "A"
fc_width = 64 if net == "googlenet" else 32
spec = full_spec(net, name="net", width=1 / 16, fc_width=fc_width, train_short_px=(256, 512), test_short_px=256)
export_onnx(load(write_checkpoint(folder / "net.pt", spec, 0)), folder / "net.onnx")
engine = write_plan(folder / "net.onnx", folder)

kept = []
original = TensorRTEngine.start
def start(self, image, plans, outputs=("posterior",)):
    if len(kept) < KEEP:
        calls = self._calls(image, plans)
        views = numbered_views(plans)
        for call in [calls[0], calls[-1], calls[len(calls) // 2]]:
            kept.append((image.images, [views[place] for place in call.places], dict(call.feed)))
    return original(self, image, plans, outputs)
TensorRTEngine.start = start

if free == "1":
    import evaluation.run.loop as loop
    decode = loop.open_decoder("cpu", 0)
    pictures = {}
    def elsewhere(data, **options):
        time.sleep(0.001)
        key = hash(data)
        if key not in pictures:
            pictures[key] = decode(data, **options)
        return pictures[key].copy()
    loop.open_decoder = lambda name, device: elsewhere

spent = {}
class Clock(threading.local):
    stack = None
clock = Clock()
def timed(label, function):
    @functools.wraps(function)
    def run(*args, **kwargs):
        if clock.stack is None:
            clock.stack = []
        started, clock_stack = time.thread_time(), clock.stack
        clock_stack.append(0.0)
        try:
            return function(*args, **kwargs)
        finally:
            whole, inner = time.thread_time() - started, clock_stack.pop()
            if clock_stack:
                clock_stack[-1] += whole
            spent[label] = spent.get(label, 0.0) + whole - inner
    return run
if shares == "1":
    for label, module, owner, name in (
        ("read, SHA-256", "evaluation.run.loop", None, "read_image"),
        ("decode", "evaluation.run.loop", None, "decode"),
        ("header", "evaluation.run.loop", None, "decoded_bytes"),
        ("plan", "evaluation.run.score", "ScoreMaker", "begin"),
        ("inputs", "infer.tensorrt.engine", "TensorRTEngine", "_calls"),
        ("rescale on the host", "infer.pixels.render", None, "resize"),
        ("atlas", "infer.tensorrt.calls", None, "feed_atlas"),
        ("upload", "infer.tensorrt.gpu", "Resident", "put"),
        ("enqueue", "infer.tensorrt.engine", "TensorRTEngine", "start"),
        ("read back", "infer.tensorrt.gpu", "Pending", "result"),
        ("average", "evaluation.run.score", "BegunBatch", "collect"),
        ("rows", "evaluation.run.score", "ScoreMaker", "rows"),
        ("write", "evaluation.run.store", "UnfinishedScores", "add"),
    ):
        holder = importlib.import_module(module)
        holder = getattr(holder, owner) if owner else holder
        if hasattr(holder, name):
            setattr(holder, name, timed(label, getattr(holder, name)))

def run(images, name):
    out = folder / name
    argv = ["--engine", str(engine), "--data", data, "--protocol", protocol, "--out", str(out), "--limit", str(images)]
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = ilsvrc.main([*argv, "--workers", workers])
    if code:
        raise SystemExit(code)
    return time.perf_counter() - started

run(int(few), "warm-up")
first = run(int(few), "few")
spent.clear()
whole = run(int(all_images), "all")
images = int(all_images) - int(few)
seconds = whole - first
taken = dict(spent)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

# what the engine was fed gives the CPU engine's rows
session = onnxruntime.InferenceSession(str(json.loads(engine.read_bytes().partition(b"\\n")[2])["onnx"]))
names = ["posterior", "pixel_sums"]
reference = OnnxEngine(folder / "net.onnx")
differs = 0.0
views = 0
for pixels, own, feed in kept:
    found = dict(zip(names, session.run(names, {name: np.asarray(array) for name, array in feed.items()})))
    for place, (number, view) in enumerate(own):
        plan = ViewPlan("one", pixels[number].shape[:2], (view,))
        right = reference.run(load_on_host([pixels[number]]), [plan], names)
        if not np.array_equal(found["pixel_sums"][place], right["pixel_sums"][0]):
            raise SystemExit("the pixels that the engine was fed are not those of the CPU engine")
        differs = max(differs, float(np.abs(found["posterior"][place] - right["posterior"][0]).max()))
        views += 1
if differs > 1e-6:
    raise SystemExit(f"posteriors differ by {differs}")
print(json.dumps({"rate": images / seconds, "differs": differs, "views": views, "spent": taken, "whole": whole,
                  "images": int(all_images), "peak": peak}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400, help="of each protocol, twice as many of center")
    cores = "cores for the process to run on, each with a thread that decodes: N[,N...] (default: 1 and all)"
    parser.add_argument("--cores", default=f"1,{os.cpu_count()}", help=cores)
    parser.add_argument("--workers", help="threads that decode (default: the cores)")
    parser.add_argument("--protocol", default=",".join(SHARE))
    parser.add_argument("--before", metavar="COMMIT", help="measure this commit, too")
    parser.add_argument("--shares", action="store_true", help="say where the CPU's time goes")
    parser.add_argument("--free-decoding", action="store_true", help="as if other cores decoded: a pause, then pixels")
    args = parser.parse_args()

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trees = {"now": ROOT}
        if args.before:
            trees = {args.before: folder / "before", **trees}
            command = ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(folder / "before"), args.before]
            subprocess.run(command, check=True, capture_output=True)
        try:
            data = photographs(folder, args.images * max(SHARE.values()))
            measure(trees, folder, data, args)
        finally:
            if args.before:
                command = ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder / "before")]
                subprocess.run(command, check=True)


def measure(trees: dict[str, Path], folder: Path, data: Path, args: argparse.Namespace) -> None:
    rows = []
    shares: dict[tuple[str, str, str], dict[str, float]] = {}
    for protocol in args.protocol.split(","):
        for cores in args.cores.split(","):
            for tree, path in trees.items():
                out = folder / f"{protocol}-{cores}-{tree}"
                out.mkdir()
                images = args.images * SHARE[protocol]
                rest = images, data, args.shares, args.free_decoding
                found = run(path, out, protocol, cores, args.workers or cores, *rest)
                proof = found["views"], f"{found['differs']:.0e}"
                rows.append((protocol, cores, tree, found["rate"], *proof, found["peak"] / 1e6))
                shares[protocol, cores, tree] = {
                    label: 1e3 * seconds / found["images"] for label, seconds in found["spent"].items()
                }
                print(*rows[-1], file=sys.stderr)
    headers = ("protocol", "cores", "tree", "images/s", "views proven", "posteriors differ by", "peak MB")
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=".0f"))
    for (protocol, cores, tree), steps in shares.items():
        if steps:
            said = sorted(steps.items(), key=lambda step: -step[1])
            print(f"\n{protocol}, {cores} cores, {tree}: CPU ms an image, {sum(steps.values()):.2f} in all")
            print(tabulate(said, ("step", "ms"), tablefmt="pipe", floatfmt=".3f"))


def run(
    tree: Path,
    folder: Path,
    protocol: str,
    cores: str,
    workers: str,
    images: int,
    data: Path,
    shares: bool,
    free: bool,
) -> dict[str, float]:
    paths = [str(tree / "tests" / "support"), str(tree / "tests"), str(tree), str(ROOT / "benchmarks")]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(cudasim.library()),
        "PYTHONPATH": os.pathsep.join(paths),
        "CUSIM_MEM_MB": "16000",
    }
    arguments = [
        tree,
        ROOT,
        folder,
        protocol,
        cores,
        workers,
        min(FEW, images // 2),
        images,
        data,
        int(shares),
        int(free),
    ]
    command = [sys.executable, "-c", PROGRAM, *map(str, [*arguments, int(shares), int(free)])]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{protocol}, {tree}: {done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
