"""The memory that `evaluation.features svm` needs, on a made-up table: a fifth of VOC-2007's by default.

    python benchmarks/feature_memory.py --workers 3

Half of the examples train. Peaks are the process's own (ru_maxrss), above what it had after its imports.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parents[1])  # `evaluation` is the package, not the benchmark beside this

from evaluation.features.svm import Choices, evaluate_sets
from evaluation.features.table import FORMAT, PART, FeatureRow, UnfinishedTable, read
from evaluation.run.loop import Effort, Shard
from evaluation.scores.table import OK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--difficult", action="store_true", help="some labels are 0, as in VOC")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.parquet"
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(path, args))  # with a peak of its own
        writer.start()
        writer.join()

        importlib.import_module("sklearn.svm")
        before = peak_mb()
        started = time.monotonic()
        table = read([path])
        loaded = peak_mb()
        evaluate_sets(table, None, Choices(workers=args.workers))
        print(f"table {table.features.nbytes / 1e6:.0f} MB, half of it trains, {args.workers} workers:")
        print(f"read +{loaded - before:.0f} MB, SVMs +{peak_mb() - loaded:.0f} MB, {time.monotonic() - started:.0f} s")


def write(path: Path, args: argparse.Namespace) -> None:
    random = np.random.default_rng(0)
    metadata = {"format": FORMAT, "kind": "voc2007", "classes": json.dumps([f"c{i}" for i in range(args.classes)])}
    table = UnfinishedTable(path, metadata, "", args.width, args.rows, resume=False)
    for first in range(0, args.rows, PART):
        rows = []
        for i in range(first, min(first + PART, args.rows)):
            features = np.abs(random.normal(0, 1, args.width)).astype(np.float32)  # means of ReLU: few are zero
            labels = np.where(np.arange(args.classes) == i % args.classes, 1, -1).astype(np.int8)
            labels[i // args.classes % args.classes] *= not (args.difficult and i % 10 == 0)
            features[: args.classes] += labels > 0
            split = "train" if 2 * i < args.rows else "test"
            rows.append(FeatureRow(f"{i}.jpg", split, labels, OK, "", str(i), features / np.linalg.norm(features)))
        table.add(Shard(first, len(rows), rows, Effort(0, (), 0.0)))
    table.finish()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == "__main__":
    main()
