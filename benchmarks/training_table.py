"""A check of the papers' findings on the miniature: all seven mini nets, three seeds, the real commands.

    python benchmarks/training_table.py [--out build/training-table] [--seeds 3] [--doc docs/training.md]

Trains each net with each seed (B to E from A of the same seed), and D once more without scale jitter; evaluates them;
prints a table of errors and one of differences. What is in OUT already is not done again. About half an hour a seed
on two cores; --set epochs=1 width=0.0625 fc_width=16 tries it in minutes.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])  # `evaluation` is the package, not a benchmark beside this

from evaluation.scores import table as tables
from evaluation.scores.metrics import is_wrong
from evaluation.scores.paired import pair_scores
from evaluation.scores.table import Scores
from infer.files import replacing
from trainer.checkpoint import load
from trainer.recipes import RECIPES

NETS = ("mini-a", "mini-a-lrn", "mini-b", "mini-c", "mini-d", "mini-e", "mini-googlenet")
FIXED, FUSED = "mini-d-fixed", "mini-d-and-e"
FIXED_SETTINGS = (f"name={FIXED}", "phases=0.4:82-90,0.6:88:dropout")
"""mini-d's phases with one S, the one that it is tested at, in place of [72; 120]."""
CENTER, SINGLE, DENSE, BOTH = COLUMNS = ("center", "dense, one scale", "dense", "multicrop+dense")
BEGIN, END = "<!-- by benchmarks/training_table.py -->", "<!-- end of what benchmarks/training_table.py wrote -->"

Place = tuple[str, str]
"""(net, column)."""


class Finding(NamedTuple):
    """A paper's claim about two results: the first errs less, or, for LRN alone, not less."""

    claim: str
    first: Place
    second: Place
    in_the_paper: str
    less: bool = True


FINDINGS = (
    Finding("LRN does not help", ("mini-a-lrn", SINGLE), ("mini-a", SINGLE), "+0.1 (Table 3)", less=False),
    Finding("deeper is better: B, A", ("mini-b", SINGLE), ("mini-a", SINGLE), "-0.9 (Table 3, S = 256)"),
    Finding("C, B: 1x1 convolutions more", ("mini-c", SINGLE), ("mini-b", SINGLE), "-0.6 (Table 3, S = 256)"),
    Finding("D, C: 3x3 in place of 1x1", ("mini-d", SINGLE), ("mini-c", SINGLE), "-1.7 (Table 3, jitter)"),
    Finding("E, D", ("mini-e", SINGLE), ("mini-d", SINGLE), "-0.1 (Table 3, jitter)"),
    Finding("scale jitter helps: D, one scale", ("mini-d", SINGLE), (FIXED, SINGLE), "-1.4 (Table 3)"),
    Finding("scale jitter helps: D, three scales", ("mini-d", DENSE), (FIXED, DENSE), "-1.8 (Table 4)"),
    Finding("three scales help: D", ("mini-d", DENSE), ("mini-d", SINGLE), "-0.8 (Tables 3 and 4)"),
    Finding("three scales help: E", ("mini-e", DENSE), ("mini-e", SINGLE), "-0.7 (Tables 3 and 4)"),
    Finding("multi-crop adds to dense: D", ("mini-d", BOTH), ("mini-d", DENSE), "-0.4 (Table 5)"),
    Finding("multi-crop adds to dense: E", ("mini-e", BOTH), ("mini-e", DENSE), "-0.4 (Table 5)"),
    Finding("fusion helps: D and E, D", (FUSED, BOTH), ("mini-d", BOTH), "-0.7 (Tables 5 and 6)"),
    Finding("fusion helps: D and E, E", (FUSED, BOTH), ("mini-e", BOTH), "-0.7 (Tables 5 and 6)"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/training-table"))
    parser.add_argument("--data", type=Path, help="a miniature that is there already (default: made in OUT)")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", default="fp32", help="of the trainer: bf16 is twice as fast where a CPU has it")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="fields of all recipes")
    parser.add_argument(
        "--finished", action="store_true", help="train nothing: the table of what is there for each seed"
    )
    parser.add_argument("--doc", type=Path, help=f"write the result between the lines {BEGIN} and {END} of this file")
    args = parser.parse_args()

    data = args.data or args.out / "miniature"
    if not data.exists():
        python("trainer.miniature", data)
    found: dict[Place, list[Scores]] = {}
    for seed in range(args.seeds):
        own, folder = [f"seed={seed}", *args.set], args.out / f"seed-{seed}"
        for place, path in evaluate_seed(folder, data, own, args.precision, finished=args.finished).items():
            found.setdefault(place, []).append(tables.read(path))

    found = {place: scores for place, scores in found.items() if len(scores) == args.seeds}
    text = f"{conditions(found, args.set, args.precision)}\n\n{errors(found)}\n\n{findings(found)}"
    print(f"\n{text}")
    if args.doc:
        write_between(args.doc, BEGIN, END, text)


def write_between(doc: Path, begin: str, end: str, text: str) -> None:
    """Writes a text between two lines of a document."""
    head, _, rest = doc.read_text().partition(begin)
    tail = rest.partition(end)[2]
    with replacing(doc) as unfinished:
        unfinished.write_text(f"{head}{begin}\n\n{text}\n\n{end}{tail}")


def evaluate_seed(
    out: Path, data: Path, settings: Sequence[str], precision: str, *, finished: bool = False
) -> dict[Place, Path]:
    """The score tables of all nets of one seed, trained and evaluated where they are not there; or passed over."""
    found = {}
    for name in (*NETS, FIXED):
        checkpoint, recipe = out / name / "ckpt.pt", RECIPES["mini-d" if name == FIXED else name]
        init = ["--init", out / recipe.init / "ckpt.pt"] if recipe.init else []
        own = FIXED_SETTINGS if name == FIXED else ()
        train = ["trainer", "--recipe", recipe.name, "--data", data, "--out", checkpoint.parent, *init, "--resume"]
        reports = [checkpoint.parent / folder / "report.json" for folder in ("papers", "single")]
        if finished and not all(report.exists() for report in reports):
            continue

        if not (checkpoint.exists() and load(checkpoint).finished):
            python(*train, "--final-protocol", "none", "--precision", precision, "--set", *settings, *own)

        one_scale = ["--scales", load(checkpoint).spec.test_short_px]
        for folder, protocols, scales in (("papers", (CENTER, DENSE, BOTH), []), ("single", ("dense",), one_scale)):
            results = checkpoint.parent / folder
            if not (results / "report.json").exists():
                words = ["--engine", checkpoint, "--data", data, "--out", results, "--protocol", ",".join(protocols)]
                python("evaluation.ilsvrc", *words, *scales, "--resume")
            for protocol in protocols:
                (path,) = (results / "scores").glob(f"*.{protocol}.q*.parquet")
                found[name, SINGLE if folder == "single" else protocol] = path

    for column in COLUMNS if ("mini-d", CENTER) in found and ("mini-e", CENTER) in found else ():
        path = out / FUSED / f"{column}.parquet"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            python("evaluation.fuse", *(found[name, column] for name in ("mini-d", "mini-e")), "-o", path)
        found[FUSED, column] = path
    return found


def python(*words: object) -> None:
    """Runs `python -m words`; a failure ends this."""
    print(f"== python -m {' '.join(map(str, words))}", file=sys.stderr, flush=True)
    status = subprocess.run([sys.executable, "-m", *map(str, words)], stdout=sys.stderr).returncode
    if status:
        sys.exit(status)


def wrong(of_seeds: Sequence[Scores]) -> NDArray[np.bool_]:
    """True where the first answer is wrong: [seeds, images]."""
    return np.stack([is_wrong(scores, 1) for scores in of_seeds])


def mean_and_interval(values: NDArray[Any]) -> tuple[float, float, float]:
    """Mean of [seeds, images] in percent with its 95 % interval, as of other seeds and other images.

    The variance of the mean is taken as that over images (of means over seeds) plus that over seeds (of means over
    images), which counts their common part twice; Student's t with Satterthwaite's degrees of freedom. In simulations
    with 3 and 5 seeds 93 to 98 % of such intervals hold the truth. One seed says nothing of seeds: the interval is
    that of the images then.
    """
    seeds, images = values.shape
    mean = float(values.mean())
    parts = [(values.mean(0).var(ddof=1) / images, images - 1)]
    if seeds > 1:
        parts.append((values.mean(1).var(ddof=1) / seeds, seeds - 1))

    variance = sum(part for part, _ in parts)
    if not variance:
        return 100 * mean, 100 * mean, 100 * mean
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(variance)
    return 100 * mean, 100 * (mean - half), 100 * (mean + half)


def conditions(found: dict[Place, list[Scores]], settings: Sequence[str], precision: str) -> str:
    """The conditions, without which the numbers say nothing."""
    first = next(iter(found.values()))
    images, about = len(first[0].images), first[0].metadata
    seeds = f"{len(first)} seeds" if len(first) > 1 else "1 seed"
    commits = {scores.metadata["commit"][:7] for of_seeds in found.values() for scores in of_seeds}
    changed = f", `--set {' '.join(settings)}`" if settings else ""
    return (
        f"Top-1 errors in percent on the {images} validation images of the miniature (data set {about['dataset_id']}), "
        f"{seeds}{changed}, torch {torch.__version__}, trained in {precision}, evaluated in fp32, commit "
        f"{', '.join(sorted(commits))}; in brackets 95 % intervals."
    )


def errors(found: dict[Place, list[Scores]]) -> str:
    """Mean over the seeds, its interval, and each seed's error, of every net and protocol."""
    rows = []
    for net in (*NETS, FIXED, FUSED):
        if (net, CENTER) not in found:
            continue
        cells = []
        for column in COLUMNS:
            errors_of = wrong(found[net, column])
            mean, low, high = mean_and_interval(errors_of)
            each = ", ".join(f"{100 * rate:.2f}" for rate in errors_of.mean(1))
            cells.append(f"**{mean:.2f}** [{max(0.0, low):.1f}, {min(100.0, high):.1f}]<br>{each}")
        rows.append((net, *cells))
    return tabulate(rows, ("net", *COLUMNS), tablefmt="pipe")


def findings(found: dict[Place, list[Scores]]) -> str:
    """The difference that each finding is about, over the same images and seeds."""
    rows = []
    for finding in FINDINGS:
        if not {finding.first, finding.second} <= found.keys():
            rows.append((finding.claim, finding.in_the_paper, "-", "not measured", "-"))
            continue

        pairs = list(zip(found[finding.first], found[finding.second], strict=True))
        difference = wrong(found[finding.first]).astype(int) - wrong(found[finding.second])
        mean, low, high = mean_and_interval(difference)
        tests = [pair_scores(first, second, 1) for first, second in pairs]
        each = "; ".join(f"{test.only_first_wrong}, {test.only_second_wrong} (p {test.p:.2g})" for test in tests)
        here = f"**{mean:+.2f}** [{low:+.1f}, {high:+.1f}]"
        rows.append((finding.claim, finding.in_the_paper, here, verdict(finding, low, high), each))

    columns = ("finding", "the paper", "here", "verdict", "each seed: only first wrong, only second (McNemar)")
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)


def verdict(finding: Finding, low: float, high: float) -> str:
    """The verdict on a finding, from the interval of first - second."""
    if low <= 0 <= high:
        return "not shown" if finding.less else "no help is shown"
    return "holds" if (high < 0) == finding.less else "the opposite"


if __name__ == "__main__":
    main()
