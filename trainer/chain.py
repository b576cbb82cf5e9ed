"""The VGG paper's nets one after the other, each from the one it starts from (section 3.1), and their submission.

    python -m trainer.chain --data DIR --out DIR [--mini] [--nets A,D,E] [--start glorot] [--resume]

A, then B to E from A's layers, then C to E at S = 384, then at S in a range. Each run has its folder OUT/RECIPE/. At
the end stands OUT/submission.yaml, which `evaluation.ilsvrc --submission` takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from infer.command import Parser, data_options, exit_with
from infer.files import replacing
from infer.processes.owned import is_empty, own_folder

from .checkpoint import load
from .data.colours import Statistics
from .loop.execution import Execution
from .loop.options import add_run_options, execution_from_args, run_training, settings_from_args
from .loop.report.write import try_to_report
from .loop.train import TrainingError, train
from .processes import Peers, join
from .recipe import Recipe, RecipeError, Start, override
from .recipes import FINE_SCALES, MINI_BASES, RECIPES, VGG_BASES

FUSED = ("D", "E")
"""The nets of the paper's best result, both with scale jitter, multi-crop and dense (VGG Table 6)."""
PROTOCOL = "multicrop+dense"
DECIDED = ("name", "net", "task", "init", "start")
"""Fields that the chain decides, so that --set does not reach them."""


class Begun(NamedTuple):
    """A run that has a checkpoint already."""

    epochs_done: int
    finished: bool


def chain(nets: Sequence[str], *, mini: bool = False, start: Start | None = None) -> dict[str, Recipe]:
    """The recipes of `nets` (of VGG_BASES) by name, each after the one it starts from.

    A recipe that others start from is there even if its net was not asked for. start: every net of the first scale
    begins at random, in this way, instead of from A's layers.
    """
    bases = dict(MINI_BASES if mini else VGG_BASES)
    if start is not None:
        bases = {net: dataclasses.replace(base, start=start, init="") for net, base in bases.items()}
    known = RECIPES | {base.name: base for base in bases.values()}

    # All nets at the first scale, then those that the paper fine-tunes at 384, then in a range.
    asked = [bases[net].name for net in nets]
    fine = [bases[net].name for net in nets if net in FINE_SCALES]
    asked += [f"{name}-{scale}" for scale in ("384", "jitter") for name in fine]

    found: dict[str, Recipe] = {}
    for name in asked:
        lineage = [known[name]]
        while lineage[-1].init:
            lineage.append(known[lineage[-1].init])
        found |= {recipe.name: recipe for recipe in reversed(lineage)}
    return found


def apply_settings(recipes: Mapping[str, Recipe], settings: Sequence[str]) -> dict[str, Recipe]:
    """The recipes with [RECIPE:]KEY=VALUE applied: to that one, or to all. Raises RecipeError."""
    changed = dict(recipes)
    for setting in settings:
        name, colon, key = setting.partition("=")[0].rpartition(":")
        if colon and name not in recipes:
            raise RecipeError(f"--set {setting}: expected one of {', '.join(recipes)} before the colon")
        if key in DECIDED:
            raise RecipeError(f"--set {setting}: the chain decides {key} (--nets, --start)")

        for one in [name] if colon else recipes:
            changed[one] = override(changed[one], [setting.removeprefix(f"{name}:")])
    return changed


def find_begun(recipes: Mapping[str, Recipe], out: Path) -> dict[str, Begun]:
    """The runs that have a checkpoint. Raises TrainingError for one of other settings, CheckpointError, OSError."""
    found = {}
    for recipe in recipes.values():
        path = checkpoint_path(recipe.name, out)
        if not path.exists():
            continue
        checkpoint = load(path)
        if checkpoint.recipe != recipe.to_json():
            raise TrainingError(
                f"{path} was made with other settings: go on with those it was made with, or use a new --out"
            )
        found[recipe.name] = Begun(checkpoint.epochs_done, checkpoint.finished)
    return found


def checkpoint_path(name: str, out: Path) -> Path:
    return out / name / "ckpt.pt"


def plan_table(recipes: Mapping[str, Recipe], begun: Mapping[str, Begun]) -> str:
    """A table of the runs, and a line that says how many are left."""
    rows = []
    for number, recipe in enumerate(recipes.values(), 1):
        low, high = recipe.phases[-1].short_px
        scales = f"{low}" if low == high else f"{low}-{high}"
        done = begun.get(recipe.name)
        state = "to do" if done is None else f"{'finished' if done.finished else 'begun'}, {done.epochs_done} epochs"
        origin = recipe.init or f"random weights ({recipe.start})"
        rows.append((number, recipe.name, origin, scales, recipe.learning_rate, state))

    finished = sum(done.finished for done in begun.values())
    headers = ["", "run", "from", "S", "first rate", "state"]
    return f"{tabulate(rows, headers)}\n{finished} of {len(rows)} runs are finished, {len(rows) - finished} are left"


def write_submission(recipes: Mapping[str, Recipe], nets: Sequence[str], out: Path) -> list[str]:
    """The words of evaluation.ilsvrc that evaluate the nets that were asked for.

    OUT/submission.yaml with the paper's two best where both are there, else the last run of each net.
    """
    last = {recipe.net: recipe.name for recipe in recipes.values() if recipe.net in nets}
    if not all(net in last for net in FUSED):
        engines = [word for name in last.values() for word in ("--engine", str(checkpoint_path(name, out)))]
        return [*engines, "--protocol", PROTOCOL]

    path, family = out / "submission.yaml", last[FUSED[0]].partition("-")[0]
    lines = [
        "# D and E trained at jittered scales, multi-crop and dense, each at its own three scales: VGG Table 6.",
        f"name: {family}-d-and-e",
        "members:",
        *(f"  - {{engine: {last[net]}/ckpt.pt, protocol: {PROTOCOL}}}" for net in FUSED),
    ]
    with replacing(path) as unfinished:
        unfinished.write_text("\n".join(lines) + "\n")
    return ["--submission", str(path)]


def main(argv: list[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)

    nets, mini, start = args.nets, args.mini, args.start
    recipes = chain(nets, mini=mini, start=start)
    return run_training(parser, lambda: train_all(args, apply_settings(recipes, settings_from_args(args))))


def train_all(args: argparse.Namespace, recipes: Mapping[str, Recipe]) -> int:
    """Prints the plan, then trains what is left of it. Raises UsageError, and what `train` raises."""
    execution = execution_from_args(args)
    peers = join(execution.device)
    writes = peers.rank == 0 and not args.plan
    with own_folder(args.out) if writes else nullcontext():
        return _train_all(args, recipes, execution, peers)


def _train_all(args: argparse.Namespace, recipes: Mapping[str, Recipe], execution: Execution, peers: Peers) -> int:
    """Trains in a folder that is owned, as `train_all` says."""
    out = args.out
    if not args.plan and not args.resume and out.exists() and not is_empty(out):
        raise TrainingError(f"{out} is not empty: go on with --resume, or use a new --out")

    begun = find_begun(recipes, out)
    first = peers.rank == 0
    if first:
        print(plan_table(recipes, begun), flush=True)
    if args.plan:
        return 0

    statistics = Statistics.read(args.statistics) if args.statistics else None
    peers.wait()  # all have looked before the first one writes
    for number, recipe in enumerate(recipes.values(), 1):
        if recipe.name in begun and begun[recipe.name].finished:
            continue
        if first:
            print(f"[{number} of {len(recipes)}] {recipe.name}", flush=True)
        init = checkpoint_path(recipe.init, out) if recipe.init else None
        train(
            recipe,
            args.data,
            out / recipe.name,
            init=init,
            resume=True,
            statistics=statistics,
            execution=execution,
            reading=data_options(args),
        )
        if first:
            try_to_report(checkpoint_path(recipe.name, out), recipe, args.data, data_options(args))
        peers.wait()  # the first one has written what the next run starts from

    if first:
        words = ["python", "-m", "evaluation.ilsvrc", *write_submission(recipes, args.nets, out)]
        words += ["--data", str(args.data), "--out", str(out / "evaluation")]
        words += ["--provider", "cuda"] if peers.device.type == "cuda" else []
        print(f"all {len(recipes)} runs are finished; evaluate them as the paper did:\n{shlex.join(words)}")
    return 0


def make_parser() -> Parser:
    parser = Parser(prog="python -m trainer.chain", description="Train the nets of the VGG paper, one from the other.")
    add = parser.add_argument
    out = "folder for a folder of each run and submission.yaml"
    nets = f"of {', '.join(VGG_BASES)} (default: A,B,C,D,E); one that others start from is trained anyway"
    start = "begin every net at random: Glorot's start is the paper's later advice (default: B to E from A's layers)"

    add_run_options(parser, out, "[RECIPE:]KEY=VALUE", "override fields of one recipe, or of all")
    add("--resume", action="store_true", help="go on in OUT; finished runs are passed over")
    add("--plan", action="store_true", help="print what there is to do, and what is done, and end")
    add("--mini", action="store_true", help="the mini- recipes, for the miniature")
    add("--nets", type=_nets_argument, default=list("ABCDE"), metavar="NET[,NET...]", help=nets)
    add("--start", choices=["glorot", "he"], help=start)
    return parser


def _nets_argument(text: str) -> list[str]:
    """`A,D,E` as nets in the order of VGG_BASES, for argparse."""
    asked = text.split(",")
    unknown = next((net for net in asked if net not in VGG_BASES), None)
    if unknown is not None:
        raise argparse.ArgumentTypeError(f"expected nets of {', '.join(VGG_BASES)}, got {unknown!r}")
    return [net for net in VGG_BASES if net in asked]


if __name__ == "__main__":
    exit_with(main)
