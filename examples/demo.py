"""The main job on a laptop: `make demo`. Runs the public commands one after the other and times each.

Digits -> nets A and D -> the papers' protocols at three scales, for both nets and fused.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from evaluation.report import Result, format_table

SCALES = "72,96,120"
PROTOCOLS = "center,dense,multicrop,multicrop+dense"


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    data, a, d = out / "miniature", out / "a" / "ckpt.pt", out / "d" / "ckpt.pt"
    stages = {
        "the digits, in ILSVRC-2012's shape": ["trainer.miniature", data],
        "train mini-a": ["trainer", "--recipe", "mini-a", "--data", data, "--out", a.parent],
        "train mini-d from A's layers": [
            *("trainer", "--recipe", "mini-d", "--data", data, "--out", d.parent, "--init", a),
        ],
        "evaluate in torch": [
            *("evaluation.ilsvrc", "--engine", a, "--engine", d, "--data", data),
            *("--protocol", PROTOCOLS, "--scales", SCALES, "--out", out / "torch"),
        ],
    }
    seconds = {name: run(name, command) for name, command in stages.items()}
    results = [Result(**row) for row in json.loads((out / "torch" / "report.json").read_text())["results"]]
    print(f"\n{format_table(results)}\n")
    print("On 400 images the intervals are wide: no protocol or fusion here is shown to beat another.\n")
    for name, taken in seconds.items():
        print(f"{taken:6.0f} s  {name}")
    print(f"{sum(seconds.values()):6.0f} s  in all; everything is in {out}/")


def run(name: str, command: list[object]) -> float:
    """Runs `python -m command` and returns its seconds; a failure ends the demo."""
    words = [str(word) for word in command]
    print(f"== {name}: python -m {' '.join(words)}", flush=True)
    started = time.monotonic()
    if subprocess.run([sys.executable, "-m", *words]).returncode != 0:
        sys.exit(f"demo: {name} failed")
    return time.monotonic() - started


if __name__ == "__main__":
    main(Path(sys.argv[1]))
