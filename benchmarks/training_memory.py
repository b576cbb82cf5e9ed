"""Training's memory: what trainer.loop.memory foretells of a step, and the peak of real ones in a process of their own.

python benchmarks/training_memory.py                                     some nets and batches: minutes on a CPU
python benchmarks/training_memory.py vgg-d:16 googlenet:32:bf16          RECIPE:IMAGES[:PRECISION] ...
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import get_args

import torch
from tabulate import tabulate

sys.path[:1] = [str(Path(__file__).resolve().parents[1])]  # this file's folder has a module of another package's name

from trainer.loop.execution import Execution, Precision
from trainer.loop.memory import step_memory
from trainer.loop.start import make_initial_net
from trainer.loop.training_state import TrainingState
from trainer.processes import Peers
from trainer.recipes import RECIPES

CASES = (
    "mini-d:32",
    "mini-googlenet:32",
    "googlenet:8",
    "googlenet:32",
    "vgg-a:8",
    "vgg-a-lrn:8",
    "vgg-d:4",
    "vgg-d:16",
)
CLASSES = 1000


def resident(key: str) -> int:
    """Bytes of this process, as /proc/self/status has them: VmRSS now, VmHWM at its highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def grown_and_foretold(case: str) -> tuple[int, int]:
    """Bytes by which two steps make this process grow, and what is foretold of them, without batches that wait."""
    name, images, *precision = case.split(":")
    recipe = dataclasses.replace(RECIPES[name], batch=int(images))
    execution = Execution("cpu", *precision)
    spec = recipe.spec(tuple(map(str, range(CLASSES))), (), (120.0, 115.0, 100.0))
    run = TrainingState(recipe, spec, make_initial_net(recipe, spec, None), execution, Peers(torch.device("cpu")))
    foretold = step_memory(run, recipe.batch)

    side = recipe.crop_px
    pixels = torch.randint(0, 256, (recipe.batch, side, side, 3), dtype=torch.uint8)
    labels, numbers = torch.randint(0, CLASSES, (recipe.batch,)), torch.arange(recipe.batch)
    batch = (pixels, torch.zeros(recipe.batch, 3), labels, numbers)
    Path("/proc/self/clear_refs").write_text("5")  # the highest counts from here on
    before = resident("VmRSS")
    for _ in range(2):
        run.step([batch], 1e-4)
    return resident("VmHWM") - before, foretold.total - foretold.waiting


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=CASES, help=f"precision: {', '.join(get_args(Precision))}")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(*grown_and_foretold(args.cases[0]))
        return

    rows = []
    for case in args.cases:
        command = [sys.executable, str(Path(__file__)), "--one", case]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        grown, foretold = map(int, run.stdout.split())
        rows.append((case, grown / 1e6, foretold / 1e6, 100 * (foretold / grown - 1)))
    headers = ("recipe:images", "grown by MB", "foretold MB", "error %")
    print(tabulate(rows, headers, tablefmt="github", floatfmt=("", ".0f", ".0f", "+.1f")))


if __name__ == "__main__":
    main()
