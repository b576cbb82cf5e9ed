"""How many of our files one command enters: a reader who follows it has to open each of them.

    python benchmarks/walk.py [--commands to_trt evaluation]

Two walks on the miniature, with a slim net of random weights: a checkpoint through `export.to_trt --calibrate
--verify`, and one image through `evaluation.ilsvrc --protocol multicrop+dense`. A file counts if one of its functions
is called while the command runs. Every module is imported before, so that no module's body and no decorator counts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import pkgutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # `evaluation` is the package, not the benchmark beside this

import torch

from infer.spec import ModelSpec, Preprocessing
from trainer import miniature
from trainer.checkpoint import Checkpoint, save
from trainer.loop.start import start_weights
from trainer.nets.zoo import build_net

PACKAGES = ("export", "trainer", "infer", "evaluation")


def import_everything() -> None:
    """Imports every module of the four packages but their `__main__`."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@contextlib.contextmanager
def watching(entered: dict[str, set[str]]) -> Iterator[None]:
    """Fills `entered` with the functions called meanwhile, by our files, in this thread and in those begun here."""
    inside = tuple(f"{ROOT / package}/" for package in PACKAGES)

    def watch(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED  # bodies of modules and classes are not
        ours = code.co_filename.startswith(inside) and code.co_filename.endswith(".py")  # no template
        if event == "call" and is_function and ours:
            path = Path(code.co_filename).relative_to(ROOT).as_posix()
            entered.setdefault(path, set()).add(code.co_name)

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]


def write_checkpoint(path: Path) -> Path:
    """A slim VGG-A with random weights, for the miniature's classes."""
    spec = ModelSpec(
        name="slim-a",
        net="A",
        classes=miniature.WNIDS,
        preprocessing=Preprocessing((123.68, 116.779, 103.939), std_rgb=(64.0, 64.0, 64.0)),
        train_short_px=(72, 120),
        crop_px=64,
        width=1 / 8,
        fc_width=32,
    )
    torch.manual_seed(0)
    net = build_net(spec)
    start_weights(net, "he")
    save(Checkpoint(spec, net.state_dict()), path)
    return path


def walk(main: Callable[[list[str]], int], arguments: Sequence[object]) -> dict[str, set[str]]:
    """The functions that a command enters, by file. It must succeed."""
    entered: dict[str, set[str]] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), watching(entered):
        status = main([str(argument) for argument in arguments])
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))} ended with {status}:\n{said.getvalue()}")
    return entered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--commands", nargs="+", choices=("to_trt", "evaluation"), default=["to_trt", "evaluation"])
    parser.add_argument("--functions", action="store_true", help="name the functions of each file, too")
    args = parser.parse_args()
    import_everything()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "miniature"
        miniature.make(data, train_digits=16, val_digits=24)
        checkpoint = write_checkpoint(folder / "ckpt.pt")
        from evaluation.ilsvrc import main as ilsvrc
        from export.to_onnx import main as to_onnx
        from export.to_trt import main as to_trt

        with contextlib.redirect_stdout(io.StringIO()):
            to_onnx([str(checkpoint), "-o", str(folder / "single.onnx")])
        build = [checkpoint, "--calibrate", data, "--verify", data, "--limit", 4]
        build += ["--builder", "tensorrt-rtx", "--target", "sm86"]
        evaluate = ["--engine", folder / "single.onnx", "--data", data, "--protocol", "multicrop+dense"]
        evaluate += ["--limit", 1, "--out", folder / "out"]
        walks = {"to_trt": (to_trt, build), "evaluation": (ilsvrc, evaluate)}
        for command in args.commands:
            entered = walk(*walks[command])
            print(f"{command}: {len(entered)} files")
            for path in sorted(entered):
                print(f"  {path}" + (f": {', '.join(sorted(entered[path]))}" if args.functions else ""))


if __name__ == "__main__":
    main()
