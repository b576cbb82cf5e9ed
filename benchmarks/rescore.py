"""What it costs to score a table again: seconds and memory of `python -m evaluation.rescore`, started as a user does.

    python benchmarks/rescore.py [--images 50000]

One table of ILSVRC-2012's validation images and 1,000 classes, with random posteriors.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.rescore.lists import IMAGENET_CLASSES, VAL_IMAGES
from evaluation.scores import table as tables
from evaluation.scores.table import OK, ROW_GROUP, Scores
from infer.data.imagenet import words_of_wnids
from infer.spec import ModelSpec, Preprocessing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=VAL_IMAGES)
    images = parser.parse_args().images

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = np.random.default_rng(0).integers(0, IMAGENET_CLASSES, VAL_IMAGES).astype(np.int32)
        tables.write(parts(labels[:images]), folder / "table.parquet")
        (folder / "real.json").write_text(json.dumps([[label, (label + 1) % 1000] for label in labels.tolist()]))
        rows = [f"{image_name(number)},group {number % 100}" for number in range(images)]
        (folder / "groups.csv").write_text("\n".join(["image,camera", *rows]) + "\n")

        cases = {
            "--real": ["--real", "real.json"],
            "--subset objectnet": ["--subset", "objectnet"],
            "--real --subset imagenet-a --groups": [
                *("--real", "real.json", "--subset", "imagenet-a"),
                *("--groups", "groups.csv", "camera"),
            ],
        }
        found = [(said, *measure(folder, options)) for said, options in cases.items()]
    print(f"{images} images, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(tabulate(found, ["evaluation.rescore", "seconds", "MB at most so far"], tablefmt="pipe", floatfmt=".1f"))


def image_name(number: int) -> str:
    return f"ILSVRC2012_val_{number + 1:08d}.JPEG"


def parts(labels: np.ndarray) -> Iterator[Scores]:
    """The table in parts: a softmax of random scores, in which every second label stands out."""
    chance = np.random.default_rng(1)
    spec = ModelSpec("random", "foreign", tuple(words_of_wnids()), Preprocessing((0, 0, 0)), 256, stride_px=1)
    keys = {
        "protocol": "center",
        "scales": "256",
        "pooling": "scores",
        "dataset_id": "0",
        "commit": "",
        "runtime": "none",
    }
    metadata = {"spec": spec.to_json(), "engine_sha256": "", **keys}
    for first in range(0, len(labels), ROW_GROUP):
        own = labels[first : first + ROW_GROUP]
        scores = chance.normal(size=(len(own), IMAGENET_CLASSES)) * 3
        scores[np.arange(0, len(own), 2), own[::2]] += 12
        posterior = np.exp(scores - scores.max(1, keepdims=True))
        posterior /= posterior.sum(1, keepdims=True)
        names = tuple(f"val/{image_name(number)}" for number in range(first, first + len(own)))
        yield Scores(names, own, (OK,) * len(own), ("",) * len(own), posterior.astype(np.float32), metadata)


def measure(folder: Path, options: list[str]) -> tuple[float, float]:
    """Seconds of one command, and the largest resident memory of all so far in MB."""
    command = [sys.executable, "-m", "evaluation.rescore", str(folder / "table.parquet"), "--json"]
    options = [str(folder / word) if (folder / word).exists() else word for word in options]
    environment = {**os.environ, "PYTHONPATH": sys.path[0]}
    started = time.monotonic()
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    main()
