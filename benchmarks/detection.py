"""GoogLeNet's detection system on the miniature: an ensemble of two nets of regions against each alone.

    python benchmarks/detection.py [--out build/detection] [--seeds 0,1] [--doc docs/detection.md]

The commands of docs/detection.md at their real size: both miniatures, mini-googlenet, selective search on all scenes,
mini-googlenet-det for each seed (order, crops, dropout and the start of the last layer; they begin from one
mini-googlenet), and all of the validation scenes. What is in OUT already is not done again.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from pathlib import Path

import torch

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.training_table import python, write_between
from trainer.checkpoint import load
from trainer.data.batches import cores_here

BEGIN, END = "<!-- by benchmarks/detection.py -->", "<!-- end of what benchmarks/detection.py wrote -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/detection"))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    parser.add_argument("--doc", type=Path, help="write the table between this document's two lines, too")
    args = parser.parse_args()

    out, started = args.out, time.time()
    digits, scenes, first = out / "digits", out / "scenes", out / "mini-googlenet"
    proposals = {split: out / f"{split}.parquet" for split in ("train", "val")}
    if not digits.exists():
        python("trainer.miniature", digits)
    if not scenes.exists():
        python("trainer.miniature", scenes, "--task", "detection")
    for split, path in proposals.items():
        if not path.exists():
            python("evaluation.proposals", "--data", scenes, "--split", split, "-o", path, "--resume")
    train("mini-googlenet", first, "--data", digits, "--final-protocol", "none")

    engines = []
    for seed in args.seeds:
        own = out / f"seed-{seed}"
        tables = ["--proposals", proposals["train"], "--val-proposals", proposals["val"]]
        start = ["--init", first / "ckpt.pt", "--set", f"seed={seed}"]
        train("mini-googlenet-det", own, "--data", scenes, *tables, *start)
        engines += ["--engine", own / "model.onnx"]
        if not (own / "model.onnx").exists():
            python("export.to_onnx", own / "ckpt.pt", "-o", own / "model.onnx")
    found = out / "found"
    if not (found / "report.json").exists():
        words = ["--data", scenes, "--proposals", proposals["val"], "--out", found]
        python("evaluation.detection", *engines, *words, "--resume")

    report = json.loads((found / "report.json").read_text())
    table = (found / "report.md").read_text().split("\n\n")[2]
    minutes = (time.time() - started) / 60
    text = (
        f"`python benchmarks/detection.py --seeds {','.join(map(str, args.seeds))}`, {datetime.date.today()}, "
        f"{minutes:.0f} minutes on {cores_here()} shared cores, torch {torch.__version__}, fp32, commit "
        f"{report['commit'][:7]}: {report['data']['images']} validation scenes, "
        f"{report['results'][0]['regions']} regions of selective search; {report['suppression']}.\n\n{table}"
    )
    print(f"\n{text}")
    if args.doc:
        write_between(args.doc, BEGIN, END, text)


def train(recipe: str, out: Path, *words: object) -> None:
    """Trains a net where it is not there."""
    if not ((out / "ckpt.pt").exists() and load(out / "ckpt.pt").finished):
        python("trainer", "--recipe", recipe, "--out", out, *words, "--resume")


if __name__ == "__main__":
    main()
