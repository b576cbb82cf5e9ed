"""The cost of evaluation against the number of images, models, protocols, threads, processes and Ray's actors.

    python benchmarks/scale.py [--images 400]

`python -m evaluation.ilsvrc` as a user starts it, on 500x375 JPEGs with nets at an eighth of their width (random
weights: the time does not depend on them) by `dense` at one scale; one thing changes at a time, and every run must
leave the same score tables as the first of its data and models, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])  # `evaluation` is the package, not the benchmark beside this

from benchmarks.evaluation import exported, photographs

NETS = ("A", "B", "D", "E")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--without-ray", action="store_true")
    n = parser.parse_args().images
    cases: list[tuple[str, int, int, list[str]]] = [
        *((f"{count} images", count, 1, []) for count in (n // 4, n // 2, n)),
        *((f"{models} models", n // 4, models, []) for models in (2, 4)),
        *((f"--workers {threads}", n, 1, ["--workers", str(threads)]) for threads in (2, 4)),
        ("--device 0,1", n, 1, ["--device", "0,1"]),
    ]
    if not parser.parse_args().without_ray:
        cases += [(f"--ray auto, {k} actors", n, 1, ["--ray", "auto", "--ray-actors", str(k)]) for k in (1, 2)]

    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    rows, known = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for name, count, models, more in cases:
            out = Path(folder) / f"out-{len(rows)}"
            seconds, report, digest = run(Path(folder), out, count, models, more)
            same = known.setdefault((count, models), digest) == digest
            engine = sum(result["engine_seconds"] or 0 for result in report["results"])
            rows.append((name, count, models, seconds, count / seconds, engine, "yes" if same else "NO"))
            print(*rows[-1], file=sys.stderr)

    headers = ("run", "images", "models", "seconds", "images/s", "engine s", "same bytes")
    print(tabulate(rows, headers, tablefmt="pipe", floatfmt=("", "", "", ".1f", ".1f", ".1f", "")))


def run(
    folder: Path, out: Path, count: int, models: int, more: Sequence[str]
) -> tuple[float, dict[str, list[dict[str, float]]], str]:
    """(seconds of the whole process, report.json, digest of the score tables)."""
    engines = [word for net in NETS[:models] for word in ("--engine", str(exported(folder, net, 0.125, 512)))]
    command = [*engines, "--data", str(photographs(folder, count)), "--protocol", "dense", "--scales", "256"]

    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "evaluation.ilsvrc", *command, "--out", str(out), *more],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started

    digest = hashlib.sha256()
    for path in sorted((out / "scores").iterdir()):
        digest.update(path.read_bytes())
    return seconds, json.loads((out / "report.json").read_text()), digest.hexdigest()


if __name__ == "__main__":
    main()
