"""The worth of features: a linear SVM on a net's features beside the same SVM on raw pixels, by the same protocol.

    python benchmarks/features.py F.parquet --data DIR

F.parquet is what `python -m evaluation.features extract` made of DIR (class folders or ILSVRC, with train and val).
Raw pixels are those of the whole image resized to a square of 16 or 32 px (Pillow, bicubic), less the mean of the
training images, of L2 norm 1: the better one is what the features have to beat.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])  # `evaluation` is the package, not the benchmark beside this

from evaluation.features.readers import open_folders
from evaluation.features.svm import Choices, evaluate_sets
from evaluation.features.table import Table, read
from infer.pixels.decode import decode

SIDES_PX = (16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("features", type=Path)
    parser.add_argument("--data", required=True, type=Path)
    args = parser.parse_args()
    table = read([args.features])
    tables = {"features": table} | {f"raw pixels, {side}x{side}": raw(table, args.data, side) for side in SIDES_PX}

    rows = []
    for name, own in tables.items():
        found = evaluate_sets(own, None, Choices(workers=2))
        low, high = found["top1_interval95_percent"]
        error = f"{found['top1_error_percent']:.2f} [{low:.1f}, {high:.1f}]"
        rows.append((name, own.features.shape[1], error, f"{found['c']:g}"))
    print(tabulate(rows, ["SVM on", "width", "top-1 error %", "C"], tablefmt="pipe", disable_numparse=True))


def raw(table: Table, data: Path, side_px: int) -> Table:
    """A table of the same examples, with the pixels of their images as features."""
    pixels = {}
    for picture in open_folders(data).pictures:
        image = Image.fromarray(decode(picture.item.read_bytes(), name=picture.item.name))
        resized = image.resize((side_px, side_px), Image.Resampling.BICUBIC)
        pixels[picture.item.name] = np.asarray(resized, np.float32).ravel()

    features = np.stack([pixels[name] for name in table.images])
    features -= features[table.splits == "train"].mean(0)
    return replace(table, features=features / np.linalg.norm(features, axis=1, keepdims=True))


if __name__ == "__main__":
    main()
