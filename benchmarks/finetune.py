"""Does fine-tuning help? Slim nets trained on the digits 0 to 4 go on with 20 images of each of 5 to 9; three seeds.

    python benchmarks/finetune.py [--out build/finetune] [--seeds 0,1,2] [--tune-each] [--doc docs/own-photos.md]

For net D (from A, as the VGG paper has it) and GoogLeNet of the miniature: pre-training on all training images of the
digits 0 to 4, then 100 images of the others by mini-vgg-finetune and mini-googlenet-finetune. The other arm is the same
run, image for image and step for step, whose --init has random weights (He), all layers at the whole rate.

Both arms choose their learning rate from RATES by the error on the tuning images, in the runs of the first seed, or
(--tune-each) each seed in its own, and keep the last epoch. A seed draws the 100 images, the start of new layers, crops
and dropout; the pre-trained weights are of one run. Tested on the validation images of 5 to 9. No image file, and no
digit of scikit-learn's that one shows, is in two of the sets of a seed: it is checked. What is in OUT already is not
done again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.random import default_rng
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from tabulate import tabulate

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.training_table import mean_and_interval, python, write_between, wrong
from evaluation.ilsvrc import main as evaluate
from evaluation.scores import table as tables
from evaluation.scores.metrics import is_wrong
from evaluation.scores.paired import pair_scores
from evaluation.scores.table import Scores
from infer.data.dataset import open_dataset
from trainer import miniature
from trainer.checkpoint import Checkpoint, load
from trainer.data.batches import cores_here, loader_workers
from trainer.loop.fine_tuning import fit_recipe
from trainer.loop.start import start_weights
from trainer.loop.train import TrainingError, train
from trainer.nets.zoo import build_net
from trainer.recipe import Recipe
from trainer.recipes import RECIPES

OLD, NEW = miniature.WNIDS[:5], miniature.WNIDS[5:]
FEW, TUNING = 20, 40
"""Images of each new class to learn from, and for the choice of the rate; each of another digit."""
RATES = (0.003, 0.01, 0.03, 0.1)
BEGIN, END = "<!-- by benchmarks/finetune.py{} -->", "<!-- end of what benchmarks/finetune.py{} wrote -->"

Arm = Literal["fine-tuned", "random start"]
ARMS: tuple[Arm, ...] = ("fine-tuned", "random start")


class Subject(NamedTuple):
    """A net: the recipes that pre-train it, each from the one before, and the one that fine-tunes it."""

    title: str
    pretrained_by: tuple[str, ...]
    fine_tuned_by: str


SUBJECTS = (
    Subject("D", ("mini-a", "mini-d"), "mini-vgg-finetune"),
    Subject("GoogLeNet", ("mini-googlenet",), "mini-googlenet-finetune"),
)


class Outcome(NamedTuple):
    """The tests of an arm by its chosen rates, one of each seed, and its error on each seed's tuning images by rate.

    `tuning_percent` has the first seed alone where that chose for all.
    """

    rates: list[float]
    tuning_percent: list[dict[float, float]]
    scores: list[Scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("build/finetune"))
    parser.add_argument("--seeds", type=lambda text: [int(one) for one in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--tune-each", action="store_true", help="each seed chooses its rate (default: the first)")
    parser.add_argument("--epochs", type=int, default=0, help="of the pre-training (default: the recipes' own)")
    parser.add_argument("--doc", type=Path, help=f"write the result between {BEGIN} and {END} of this file")
    args = parser.parse_args()
    started, spent = time.monotonic(), args.out / "seconds.txt"  # of earlier starts too
    before = float(spent.read_text()) if spent.exists() else 0.0
    torch.set_num_threads(max(1, cores_here() - loader_workers()))  # as the trainer

    make_images(args.out, args.seeds)
    found: dict[tuple[Subject, Arm], Outcome] = {}
    for subject in SUBJECTS:
        weights = pretrain(subject, args.out, args.epochs)
        for arm in ARMS:
            found[subject, arm] = run_arm(subject, arm, weights, args.out, args.seeds, args.tune_each)

    each = " --tune-each" * args.tune_each
    command = f"python benchmarks/finetune.py --seeds {','.join(map(str, args.seeds))}{each}"
    command += f" --epochs {args.epochs}" if args.epochs else ""
    seconds = before + time.monotonic() - started
    spent.write_text(f"{seconds:.0f}\n")
    text = f"{conditions(found, command, seconds)}\n\n{results(found)}\n\n{choices(found)}"
    print(f"\n{text}")
    if args.doc:
        write_between(args.doc, BEGIN.format(each), END.format(each), text)


# The images


def make_images(out: Path, seeds: Sequence[int]) -> None:
    """Class folders OUT/old, OUT/test, and few and tuning of each seed. Ends the program where two share an image."""
    data = out / "miniature"
    if not data.exists():
        python("trainer.miniature", data)
    digits = digits_by_name()
    train = [item for item in open_dataset(data, "train").items if item.path.parent.name in NEW]
    old = [item.path for item in open_dataset(data, "train").items if item.path.parent.name in OLD]
    labelled = [(item.path, miniature.WNIDS[item.label]) for item in open_dataset(data).items]
    test = [(path, wnid) for path, wnid in labelled if wnid in NEW]
    fill(out / "old", [(path, path.parent.name) for path in old])
    fill(out / "test", test)

    for seed in seeds:
        rng = default_rng((seed, 24))
        few, tuning = [], []
        for wnid in NEW:
            # one rendering each of so many digits, which are other ones
            own = [item.path for item in train if item.path.parent.name == wnid]
            by_digit: dict[str, list[Path]] = {}
            for path in own:
                by_digit.setdefault(digits[path.name], []).append(path)
            drawn = rng.permutation(sorted(by_digit))[: FEW + TUNING]
            chosen = [(by_digit[digit][rng.integers(len(by_digit[digit]))], wnid) for digit in drawn]
            few += chosen[:FEW]
            tuning += chosen[FEW:]
        folder = out / f"seed-{seed}"
        fill(folder / "few", few)
        fill(folder / "tuning", tuning)

        sets = [old, *([path for path, _ in each] for each in (test, few, tuning))]
        for one, other in itertools.combinations(sets, 2):
            files = [{hashlib.sha256(path.read_bytes()).hexdigest() for path in each} for each in (one, other)]
            drawn_from = [{digits[path.name] for path in each} for each in (one, other)]
            if files[0] & files[1] or drawn_from[0] & drawn_from[1]:
                sys.exit("an image, or the digit that it shows, is in two sets")


def digits_by_name() -> dict[str, str]:
    """The digest of the digit of scikit-learn's that an image of the miniature shows, by the name of its file."""
    bunch = load_digits()
    order = default_rng(0).permutation(len(bunch.images))
    digests = [digest_of(image) for image in bunch.images]
    found = {}
    for number, index in enumerate(order[: miniature.VAL_DIGITS], start=1):
        found[f"ILSVRC2012_val_{number:08d}.JPEG"] = digests[index]

    counts = dict.fromkeys(miniature.WNIDS, 0)
    for index in np.repeat(order[miniature.VAL_DIGITS :], miniature.RENDERINGS):
        wnid = miniature.WNIDS[bunch.target[index]]
        counts[wnid] += 1
        found[f"{wnid}_{counts[wnid]}.JPEG"] = digests[index]
    return found


def digest_of(digit: NDArray[np.float64]) -> str:
    """A digest of a digit's 8x8 pixels."""
    return hashlib.sha256(digit.tobytes()).hexdigest()


def fill(folder: Path, images: Sequence[tuple[Path, str]]) -> None:
    """Copies images into the folders of their classes."""
    for path, wnid in images:
        (folder / wnid).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / wnid / path.name)


# The runs


def pretrain(subject: Subject, out: Path, epochs: int) -> Path:
    """The checkpoint of a net that was trained on the old digits."""
    before: list[object] = []
    for name in subject.pretrained_by:
        folder = out / "pretrained" / name
        if not ((folder / "ckpt.pt").exists() and load(folder / "ckpt.pt").finished):
            words = ["--recipe", name, "--data", out / "old", "--out", folder, *before, "--resume"]
            python("trainer", *words, "--final-protocol", "none", *(["--set", f"epochs={epochs}"] if epochs else []))
        before = ["--init", folder / "ckpt.pt"]
    return folder / "ckpt.pt"


def random_like(weights: Checkpoint, seed: int) -> Checkpoint:
    """The same net with the same preprocessing and random weights, by He's rule."""
    spec = dataclasses.replace(weights.spec, source={})
    torch.manual_seed(seed)
    net = build_net(spec)
    start_weights(net, "he")
    return Checkpoint(spec, net.state_dict())


def run_arm(subject: Subject, arm: Arm, weights: Path, out: Path, seeds: Sequence[int], each: bool) -> Outcome:
    """Chooses the rate by the runs of the first seed, or of each, then trains and tests all."""
    base = fit_recipe(RECIPES[subject.fine_tuned_by], load(weights).spec)
    base = dataclasses.replace(base, stop_after=0, keep="last", loaded_rate=1.0 if arm == ARMS[1] else base.loaded_rate)
    tuned: list[dict[float, float]] = []
    for seed in seeds if each else seeds[:1]:
        percent = {}
        for rate in RATES:
            path = run_once(base, rate, seed, weights, out, arm)
            found = None if path is None else score(path, out / f"seed-{seed}" / "tuning", "center")
            percent[rate] = 100.0 if found is None else 100 * float(is_wrong(found, 1).mean())
        tuned.append(percent)
    chosen = [min(RATES, key=lambda one: (percent[one], one)) for percent in tuned]
    rates = chosen if each else chosen * len(seeds)

    scores = []
    for seed, rate in zip(seeds, rates, strict=True):
        path = run_once(base, rate, seed, weights, out, arm)
        if path is None:
            sys.exit(f"{arm}, rate {rate}: seed {seed} diverged, other than seed {seeds[0]}")
        scores.append(score(path, out / "test", "dense"))
    return Outcome(rates, tuned, scores)


def run_once(base: Recipe, rate: float, seed: int, weights: Path, out: Path, arm: Arm) -> Path | None:
    """The checkpoint of a run on the few images of a seed; None for one that diverged."""
    recipe = dataclasses.replace(base, learning_rate=rate, seed=seed)
    folder = out / f"seed-{seed}" / f"{base.name}.{arm.replace(' ', '-')}.{rate:g}"
    path = folder / "ckpt.pt"
    if path.exists() and load(path).finished:
        return path
    source = load(weights)
    init = source if arm == ARMS[0] else random_like(source, seed)
    try:
        return train(recipe, out / f"seed-{seed}" / "few", folder, init=init, resume=True)
    except TrainingError as error:
        print(error, file=sys.stderr)
        return None


def score(checkpoint: Path, data: Path, protocol: str) -> Scores:
    """The score table of a net on class folders."""
    out = checkpoint.parent / data.name
    if not (out / "report.json").exists():
        words = ["--engine", checkpoint, "--data", data, "--protocol", protocol, "--out", out, "--resume"]
        if evaluate([*map(str, words), "--mistakes", "0"]):
            sys.exit(f"{checkpoint}: no scores of {data}")
    (path,) = (out / "scores").glob("*.parquet")
    return tables.read(path)


# The tables


def conditions(found: dict[tuple[Subject, Arm], Outcome], command: str, seconds: float) -> str:
    """The conditions, without which the numbers say nothing."""
    first = next(iter(found.values())).scores
    about, date = first[0].metadata, time.strftime("%Y-%m-%d", time.gmtime())
    return (
        f"`{command}`, {date}, {seconds / 60:.0f} minutes on {cores_here()} shared cores, torch {torch.__version__}, "
        f"fp32, commit {about['commit'][:7]}. Top-1 errors in percent by the dense protocol on the "
        f"{len(first[0].images)} validation images of the digits 5 to 9 (data set {about['dataset_id']}), {len(first)} "
        "seeds; in brackets 95 % intervals, pooled over seeds and images as in [training.md](training.md): the "
        "variance of the mean of the paired differences is that over images (of means over seeds) plus that over seeds "
        "(of means over images), with Student's t and Satterthwaite's degrees of freedom. McNemar's exact test is of "
        "the images of one seed."
    )


def results(found: dict[tuple[Subject, Arm], Outcome]) -> str:
    """The errors of both arms of each net, and their difference."""
    rows = []
    for subject in SUBJECTS:
        arms = [found[subject, arm].scores for arm in ARMS]
        cells = []
        for scores in arms:
            masks = wrong(scores)
            mean, low, high = mean_and_interval(masks)
            each = ", ".join(f"{100 * rate:.1f}" for rate in masks.mean(1))
            cells.append(f"**{mean:.1f}** [{max(0.0, low):.1f}, {min(100.0, high):.1f}]<br>{each}")

        mean, low, high = mean_and_interval(wrong(arms[0]).astype(int) - wrong(arms[1]))
        pairs = [pair_scores(one, other, 1) for one, other in zip(*arms, strict=True)]
        tests = (f"{pair.only_first_wrong}, {pair.only_second_wrong} (p {pair.p:.2g})" for pair in pairs)
        each = "; ".join(tests)
        verdict = "not shown" if low <= 0 <= high else ("helps" if high < 0 else "harms")
        rows.append((subject.title, *cells, f"**{mean:+.1f}** [{low:+.1f}, {high:+.1f}]", verdict, each))

    columns = ("net", *ARMS, "difference", "fine-tuning", "each seed: only fine-tuned wrong, only the other (McNemar)")
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)


def choices(found: dict[tuple[Subject, Arm], Outcome]) -> str:
    """The error on the tuning images by rate, and the rate that was taken."""
    rows = []
    for (subject, arm), outcome in found.items():
        cells = [
            [f"**{percent[rate]:.1f}**" if rate == chosen else f"{percent[rate]:.1f}" for rate in RATES]
            for percent, chosen in zip(outcome.tuning_percent, outcome.rates, strict=False)
        ]
        rows.append((f"{subject.title}, {arm}", *(", ".join(column) for column in zip(*cells, strict=True))))
    columns = ("tuning error % by rate", *(f"{rate:g}" for rate in RATES))
    return tabulate(rows, columns, tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    main()
