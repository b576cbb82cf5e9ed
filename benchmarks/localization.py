"""Box nets on the miniature, from training to boxes of exported engines: errors and pictures for docs/localization.md.

    python benchmarks/localization.py --classifier demo/d/ckpt.pt --data demo/miniature [--doc docs/localization.md]

Trains mini-d-loc-scr and mini-d-loc-pcr from the classifier (a mini-d), exports all three, and runs both protocols of
evaluation.localization. What is in OUT already is not done again. --doc writes the table into a page, and the pictures
of two images into pictures/ beside it: boxes before and after merging, and where the classifier sees the class.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path[0] = str(Path(__file__).resolve().parents[1])

from evaluation.localization.ground_truth import read_ground_truth
from infer.boxes.finding import BoxNet, Merging, Windows, box_net, find_windows, inside, merge, rate
from infer.data.annotations import in_frame
from infer.data.dataset import open_dataset
from infer.drawing.maps import COLOURS
from infer.engine import Engine
from infer.files import replacing
from infer.open import open_engine
from infer.pixels.decode import Pixels, decode
from infer.views import default_scales, plan_views

KINDS = ("scr", "pcr")
IMAGES = (3, 41)
"""Numbers of the validation images for the pictures."""
BEGIN, END = "<!-- by benchmarks/localization.py -->", "<!-- end of what benchmarks/localization.py wrote -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classifier", required=True, type=Path, help="a mini-d's ckpt.pt")
    parser.add_argument("--data", required=True, type=Path, help="the miniature")
    parser.add_argument("--out", type=Path, default=Path("build/localization"))
    parser.add_argument("--doc", type=Path, help=f"write the table between the lines {BEGIN} and {END} of this page")
    args = parser.parse_args()

    out, data = args.out, args.data
    classifier = out / "classifier.onnx"
    once(classifier, "export.to_onnx", args.classifier, "-o", classifier, "--outputs", "posterior,score_map,pixel_sums")

    rows = []
    for kind in KINDS:
        recipe, checkpoint = f"mini-d-loc-{kind}", out / kind / "ckpt.pt"
        options = ["--data", data, "--out", checkpoint.parent, "--init", args.classifier, "--resume"]
        python("trainer", "--recipe", recipe, *options)
        for precision in ("fp32", "fp16"):
            boxes = out / f"{kind}-{precision}.onnx"
            once(boxes, "export.to_onnx", checkpoint, "-o", boxes, "--precision", precision)
            for protocol, more in (("given-class", ()), ("dense", ("--engine", classifier))):
                results = out / f"{kind}-{precision}-{protocol}"
                words = ["--boxes", boxes, "--data", data, "--protocol", protocol, *more, "--out", results]
                once(results / "report.json", "evaluation.localization", *words)
                rows += json.loads((results / "report.json").read_text())["results"]

    text = table(rows)
    print(text)
    if args.doc:
        head, _, rest = args.doc.read_text().partition(BEGIN)
        with replacing(args.doc) as unfinished:
            unfinished.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.partition(END)[2]}")
        draw(args.doc.parent / "pictures", data, classifier, out / "pcr-fp32.onnx")


def once(made: Path, *words: object) -> None:
    if not made.exists():
        python(*words)


def python(*words: object) -> None:
    """Runs `python -m words`; a failure ends this."""
    print(f"== python -m {' '.join(map(str, words))}", file=sys.stderr, flush=True)
    status = subprocess.run([sys.executable, "-m", *map(str, words)], stdout=sys.stderr).returncode
    if status:
        sys.exit(status)


def table(rows: list[dict[str, Any]]) -> str:
    from tabulate import tabulate

    lines = []
    for row in rows:
        low, high = row["interval95_percent"]
        error = f"{row['localization_error_percent']:.2f} [{low:.1f}, {high:.1f}]"
        right = f"{100 - row['localization_error_percent']:.1f} %"
        lines.append((row["nets"], row["runtime"], row["protocol"], row["measure"], error, right))
    headers = ("box net/Q", "runtime", "protocol", "classes", "localisation error %", "IoU >= 0.5")
    return tabulate(lines, headers, tablefmt="pipe", disable_numparse=True)


def draw(folder: Path, data: Path, classifier: Path, boxes: Path) -> None:
    """boxes.png: for each image all windows' boxes, the merged ones, and the class score map."""
    from matplotlib.figure import Figure

    dataset = open_dataset(data, "val")
    truth = read_ground_truth(dataset, None, None).truths
    rater = open_engine(classifier)
    net = box_net(opened := open_engine(boxes), default_scales(opened.spec, "dense"))
    figure = Figure((9, 3.6 * len(IMAGES)), layout="constrained")
    for row, number in zip(figure.subplots(len(IMAGES), 3, squeeze=False), IMAGES, strict=True):
        item, truly = dataset.items[number], truth[number]
        image = decode(item.read_bytes())
        draw_row(row, image, item.label, dataset.class_names[item.label], net, rater)
        for box in truly.boxes if truly else ():
            frame = in_frame(box, truly.size_px, image.shape[:2]) if truly and truly.size_px else box
            outline(row[1], (frame.xmin - 1, frame.ymin - 1, frame.xmax, frame.ymax), "white", 1.5, "--")
    with replacing(folder / "boxes.png") as unfinished:
        figure.savefig(unfinished, format="png", dpi=70)


def draw_row(row: Any, image: Pixels, label: int, name: str, net: BoxNet, rater: Engine) -> None:
    windows = find_windows([net], rater, image)
    edges = windows.of_class(label)
    merged, groups = merge(edges, Merging(), min(windows.image_px))
    scores = rate(groups, windows.posterior[:, label])

    for axes in row:
        axes.imshow(image)
        axes.set_axis_off()
    row[0].set_title(f"{name}: the boxes of {len(edges)} windows", fontsize=9)
    for box, posterior in zip(edges, windows.posterior[:, label], strict=True):
        outline(row[0], box, COLOURS[3], 0.4 + 1.6 * posterior)

    best = int(scores.argmax())
    row[1].set_title(f"merged: {len(merged)}; the best {scores[best]:.1f}; dashed: true", fontsize=9)
    for place in np.argsort(scores):
        found = inside(merged[place], windows.image_px)
        own = (found.xmin - 1, found.ymin - 1, found.xmax, found.ymax)
        outline(row[1], own, COLOURS[0] if place == best else COLOURS[3], 2.5 if place == best else 0.8)

    heat(row[2], windows, rater, net, label)


def heat(axes: Any, windows: Windows, rater: Engine, net: BoxNet, label: int) -> None:
    """The posterior of the class at each window of the last scale, over the windows' middles."""
    scale, spec = net.scales[-1], rater.spec
    sides = plan_views(spec, "dense", windows.image_px, [scale]).views[0].size_px
    rows, cols = (-(-side // spec.stride_px) - spec.crop_px // spec.stride_px + 1 for side in sides)  # pools round up
    own = windows.posterior[-rows * cols :, label].reshape(rows, cols)
    pixel = min(windows.image_px) / scale
    middle, step = spec.crop_px / 2 * pixel, spec.stride_px * pixel
    extent = (middle - step / 2, middle + (cols - 0.5) * step, middle + (rows - 0.5) * step, middle - step / 2)
    shown = axes.imshow(own, extent=extent, vmin=0, vmax=1, alpha=0.55, cmap="magma")
    axes.set_xlim(0, windows.image_px[1])
    axes.set_ylim(windows.image_px[0], 0)
    axes.set_title(f"posterior at each window, Q = {scale}", fontsize=9)
    axes.figure.colorbar(shown, ax=axes, shrink=0.6)


def outline(axes: Any, edges: Any, colour: str, width: float, style: str = "-") -> None:
    left, top, right, bottom = edges
    axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], style, color=colour, lw=width)


if __name__ == "__main__":
    main()
