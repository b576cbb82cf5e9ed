"""python -m trainer --recipe NAME --data DIR --out DIR; torchrun --nproc-per-node N -m trainer ... on many GPUs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import torch

from infer.command import Parser, data_options, exit_with
from infer.data.dataset import Dataset, has_validation, open_dataset
from infer.errors import Refused, UsageError, one_line
from infer.files import read_file
from infer.pixels.header import read_header
from infer.processes.bounded import how_ended
from infer.processes.owned import PARENT
from infer.views import PROTOCOLS, plan_views

from .checkpoint import Checkpoint, load
from .data.batches import cores_here
from .data.colours import Statistics
from .data.regions import CALIBRATION, VERIFICATION, ProposalFiles, open_regions, write_regions
from .loop.fine_tuning import fit_recipe, for_features
from .loop.options import add_run_options, execution_from_args, run_training, settings_from_args
from .loop.report.write import try_to_report
from .loop.stopping import Wish, wish_to_stop
from .loop.train import HELD_OUT, train
from .processes import join, say, say_seconds
from .recipe import Recipe, override
from .recipes import RECIPES

MOST_BYTES = 1 << 28
"""The largest report.json that is read; it may name every image."""
TIMED_CROPS, SAMPLED_IMAGES = 4, 20
"""From which the time of the final evaluation is foretold."""
SECONDS_TO_LOOK = 0.1
"""Between looks at whether the final evaluation is to stop."""


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m trainer", description="Train a net; writes OUT/ckpt.pt.")
    add = parser.add_argument
    final = "of evaluation.ilsvrc, on the finished net, into OUT/evaluation; or none (default: %(default)s)"
    out = "folder for ckpt.pt, metrics.jsonl, curves.png ..."
    init = "checkpoint whose layers start the net (A's, for deeper nets), or that a -finetune recipe goes on from"
    freeze = "layers that stay as they were loaded: all but the last, none, or the first N (--set train_layers=...)"
    proposals = "of python -m evaluation.proposals for the images to train on"
    split = "keep this share of each class for validation, like 0.2 (the same as --set val_split=...)"

    add("--recipe", required=True, choices=list(RECIPES))
    add_run_options(parser, out, "KEY=VALUE", "override fields of the recipe")
    add("--init", type=Path, help=init)
    add("--freeze", type=freeze_argument, metavar="features|none|N", help=freeze)
    add("--val-split", metavar="SHARE", help=split)
    add("--proposals", type=Path, metavar="FILE", help=f"for a net of regions, {proposals}")
    add("--val-proposals", type=Path, metavar="FILE", help="the same of the images that it is tried on")
    add("--resume", action="store_true", help="go on from OUT/ckpt.pt")
    add("--final-protocol", default="dense", metavar="P", help=final)
    args = parser.parse_args(argv)
    settings = settings_from_args(args)
    settings += [] if args.freeze is None else [f"train_layers={args.freeze}"]
    settings += [] if args.val_split is None else [f"val_split={args.val_split}"]
    return run_training(parser, lambda: train_and_evaluate(args, settings))


def freeze_argument(text: str) -> str:
    """The value of train_layers for `features`, `none` or a number, for argparse."""
    if text in ("features", "none", "0"):
        return "last" if text == "features" else "all"
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected features, none or a number of layers, got {text!r}")
    return f"after-{int(text)}"


def open_weights(args: argparse.Namespace, settings: list[str]) -> tuple[Recipe, Checkpoint | None]:
    """The recipe with its settings, and the weights that it starts from, if any.

    One that fine-tunes is fitted to these, or to the checkpoint of its own run. Raises RecipeError, CheckpointError.
    """
    recipe, own = RECIPES[args.recipe], args.out / "ckpt.pt"
    if recipe.fine_tune and override(recipe, settings).train_layers == "last":
        recipe = for_features(recipe)
    recipe = override(recipe, settings)
    source = None if args.init is None else load(args.init)
    if not recipe.fine_tune:
        return recipe, source
    weights = load(own) if source is None and args.resume and own.exists() else source
    if weights is None:
        raise UsageError(f"{recipe.name}: goes on from weights, expected --init CKPT.pt (docs/own-photos.md)")
    exif = [setting for setting in settings if setting.startswith("exif=")]
    return override(fit_recipe(recipe, weights.spec), exif), source


def proposal_files(args: argparse.Namespace, recipe: Recipe) -> ProposalFiles | None:
    """The tables of proposals. Raises UsageError where they are not for this recipe, or only those to be tried on."""
    given = "--proposals" if args.proposals else "--val-proposals" if args.val_proposals else None
    if given and recipe.task != "regions":
        raise UsageError(f"{given}: is for nets of regions (like googlenet-det), {recipe.name} learns from images")
    if args.val_proposals and not args.proposals:
        raise UsageError("--val-proposals: expected --proposals too, of the images to train on")
    return ProposalFiles(args.proposals, args.val_proposals) if args.proposals else None


def leave_regions(path: Path, args: argparse.Namespace) -> None:
    """Writes some regions beside a finished net of regions, for the exporter, and says what comes next."""
    folder, spec = path.with_name("regions"), load(path).spec
    files = ProposalFiles(args.proposals, args.val_proposals)
    with contextlib.redirect_stderr(io.StringIO()):  # what there is to say of the data was said
        both = open_regions(args.data, files, limit=args.limit, seed=0)
    for name, regions, most in zip(("train", "val"), both, (CALIBRATION, VERIFICATION), strict=True):
        if regions is not None:
            write_regions(folder / name, regions, spec, most)
    proof = f"--calibrate {folder / 'train'}"
    if args.val_proposals:
        proof += f" --verify {folder / 'val'}"
    say(f"{path}: python -m export.to_trt {path} --precision int8 --protocol center {proof}")


def train_and_evaluate(args: argparse.Namespace, settings: list[str]) -> int:
    """Trains the net, then evaluates it by the final protocol. Raises UsageError, and what `train` raises."""
    started, execution = time.monotonic(), execution_from_args(args)
    if args.final_protocol not in ("none", *PROTOCOLS):
        raise UsageError(
            f"--final-protocol: expected none or one of {', '.join(PROTOCOLS)}, got {args.final_protocol!r}"
        )

    peers = join(execution.device)
    recipe, source = open_weights(args, settings)
    if peers.rank == 0 and recipe.init and args.init is None:
        print(f"{recipe.name}: without --init (of {recipe.init}) every layer starts at random", file=sys.stderr)
    given = Statistics.read(args.statistics) if args.statistics else None
    path = train(
        recipe,
        args.data,
        args.out,
        init=source,
        resume=args.resume,
        statistics=given,
        execution=execution,
        reading=data_options(args),
        proposals=proposal_files(args, recipe),
    )

    # The first process alone speaks and evaluates.
    if peers.rank:
        return 0
    done = f"{path}: {recipe.name}, {load(path).epochs_done} epochs, {time.monotonic() - started:.0f} s"
    print(one_line(done))
    if recipe.task == "regions":
        leave_regions(path, args)
        return 0
    try_to_report(path, recipe, args.data, data_options(args))
    if args.final_protocol == "none" or recipe.task != "classify":
        return 0
    held_out = path.with_name(HELD_OUT) if recipe.val_split else None
    return evaluate(path, args, args.final_protocol, peers.device.type, held_out)


def evaluate(path: Path, args: argparse.Namespace, protocol: str, provider: str, held_out: Path | None) -> int:
    """The exit status of evaluation.ilsvrc, which runs a protocol of the papers on the finished net.

    It writes into evaluation/ beside the checkpoint, and goes on where an earlier evaluation ended. --limit is of
    training alone: the net is evaluated on all images. held_out: a list of those that were kept for it, if they were.
    """
    data, only = args.data, held_out or args.only
    if held_out is None and not has_validation(data):
        print(one_line(f"{data}: no validation images, so {protocol} was not run"), file=sys.stderr)
        return 0

    out = path.parent / "evaluation"
    if is_evaluated(path, out / "report.json", protocol):
        print(one_line(f"{out}: {protocol} is there already"))
        return 0

    words = ["--engine", path, "--data", data, "--out", out, "--protocol", protocol, "--provider", provider, "--resume"]
    words += ["--labels", args.labels] if args.labels else []
    words += ["--only", only] if only else []
    words += ["--columns", ",".join(f"{key}={name}" for key, name in args.columns.items())] if args.columns else []
    command = [sys.executable, "-m", "evaluation.ilsvrc", *map(str, words)]
    with wish_to_stop() as wish:
        announce(path, args, only, protocol, provider)
        status = run_until_wished(command, wish)
    if wish.signal:
        print(one_line(f"{path}: the net is trained and kept, its evaluation goes on with --resume"), file=sys.stderr)
        return 128 + wish.signal
    if status >= 0:
        return status
    said = f"{out}: the evaluation {how_ended(status)}: the net is trained, go on with --resume"
    print(one_line(said), file=sys.stderr)
    return 128 - status


def announce(path: Path, args: argparse.Namespace, only: Path | None, protocol: str, provider: str) -> None:
    """Says what the final evaluation is going to do, and about how long. What hinders it, it will say itself."""
    try:
        dataset = open_dataset(args.data, "named", labels=args.labels, columns=args.columns, only=only)
        seconds = evaluation_seconds(path, dataset, protocol, provider)
    except (Refused, OSError):
        return
    takes = f"{protocol} of {len(dataset.items)} images, about {say_seconds(seconds)} of computing here"
    say(f"final evaluation: {takes}; {path} is whole, so Ctrl-C loses nothing, and --resume goes on with it")


def evaluation_seconds(path: Path, dataset: Dataset, protocol: str, provider: str) -> float:
    """About how long a protocol takes, from the time of a few crops and the views of some of the images.

    Raises Refused where the checkpoint, the images or the protocol's views cannot be had, and OSError.
    """
    checkpoint = load(path)
    net, spec = checkpoint.build().to(provider), checkpoint.spec
    crops = torch.zeros(TIMED_CROPS, 3, spec.crop_px, spec.crop_px, device=provider)
    threads = torch.get_num_threads()
    torch.set_num_threads(cores_here())  # as the evaluation, which no process that loads images is beside
    with torch.inference_mode():
        for _ in range(2):  # the first takes longer
            started = time.perf_counter()
            net(crops).cpu()
            seconds = time.perf_counter() - started
    torch.set_num_threads(threads)

    # The views of some images, evenly spaced.
    count = min(SAMPLED_IMAGES, len(dataset.items))
    pixels = 0
    for number in range(count):
        item = dataset.items[number * len(dataset.items) // count]
        header = read_header(item.read_bytes())
        plan = plan_views(spec, protocol, (header.height, header.width))
        pixels += sum(math.prod(view.size_px) for view in plan.views)
    return seconds / (TIMED_CROPS * spec.crop_px**2) * pixels / max(1, count) * len(dataset.items)


def run_until_wished(command: list[str], wish: Wish) -> int:
    """The exit status of a command, which is interrupted where a signal asks us to stop; negative: how it was ended.

    It is in a session of its own, so that a terminal's Ctrl-C reaches it once, through us. A second one, later than a
    second, kills it. It ends with this process, however that ends.
    """
    if wish.signal:
        return 0
    environment, told = {**os.environ, PARENT: str(os.getpid())}, False
    with subprocess.Popen(command, env=environment, start_new_session=True) as child:
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(SECONDS_TO_LOOK)
                if wish.signal and not told:
                    child.send_signal(signal.SIGINT)
                    told = True
        except KeyboardInterrupt:
            child.kill()
            return child.wait()


class _Row(msgspec.Struct):
    protocol: str


class _Evaluation(msgspec.Struct):
    """What is needed of a report.json."""

    results: list[_Row]


def is_evaluated(path: Path, report: Path, protocol: str) -> bool:
    """True where a report has results of this protocol and is younger than the checkpoint.

    One that cannot be read, as a loss of power may leave it, has none: the evaluation is made again.
    """
    if not report.exists() or report.stat().st_mtime < path.stat().st_mtime:
        return False
    try:
        found = msgspec.convert(json.loads(read_file(report, MOST_BYTES, UsageError)), _Evaluation)
    except (UsageError, ValueError, RecursionError) as error:
        print(one_line(f"{report}: no report ({error}): evaluating again"), file=sys.stderr)
        return False
    return protocol in [row.protocol for row in found.results]


if __name__ == "__main__":
    exit_with(main)
