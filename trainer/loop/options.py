"""Options that the two training commands share, and the exit status of a run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import torch

from infer.command import Parser, add_data_options, run
from infer.errors import UsageError, one_line
from infer.spec import Exif

from ..data.batches import cores_here, loader_workers
from .execution import Execution, Precision
from .train import Stopped


def run_training(parser: Parser, work: Callable[[], int]) -> int:
    """The exit status of `work`, as infer.command.run has it; 128 + its number where a signal stopped the run.

    A stop is said once, by the first process. One of several processes that lost the others says so in a line.
    """
    rank, alone = int(os.environ.get("RANK", "0")), "WORLD_SIZE" not in os.environ

    try:
        return run(parser, work)
    except Stopped as stop:
        if rank == 0:
            print(one_line(str(stop)), file=sys.stderr)
        return 128 + stop.signal
    except RuntimeError as error:
        if alone:
            raise
        print(one_line(f"process {rank}: lost the others ({str(error).splitlines()[0][:200]})"), file=sys.stderr)
        return 1


def add_run_options(parser: argparse.ArgumentParser, out: str, setting: str, settings: str) -> None:
    """Adds data, output, settings of recipes, how the steps are computed, and how often they are saved.

    out, settings: the help of --out and of --set, whose form is `setting`.
    """
    add, default = parser.add_argument, Execution()
    minutes = "write the checkpoint as often, beside after every epoch (default: %(default)g)"
    precision = "bf16, fp16: autocast, for GPUs that are faster so; fp64: for comparisons (default: %(default)s)"

    add("--data", required=True, type=Path, help="ILSVRC-2012, class folders, tars or shards")
    add_data_options(parser)
    add("--out", required=True, type=Path, help=out)
    add("--set", nargs="+", action="extend", default=[], metavar=setting, help=settings)
    add("--exif", choices=get_args(Exif), help="rotation that a camera noted, the same as --set exif=... (ignore)")
    add("--statistics", type=Path, metavar="FILE", help="colours from python -m trainer.statistics")
    add("--save-minutes", type=float, default=default.save_minutes, metavar="N", help=minutes)
    add("--device", choices=["auto", "cpu", "cuda"], default=default.device)
    add("--precision", choices=get_args(Precision), default=default.precision, help=precision)
    add("--parts", type=int, default=default.parts, metavar="N", help="compute a process's batch in N pieces")
    channels_last = argparse.BooleanOptionalAction
    add("--channels-last", action=channels_last, default=default.channels_last, help="memory format")
    add("--compile", action="store_true", help="torch.compile: minutes at the start, faster steps")


def settings_from_args(args: argparse.Namespace) -> list[str]:
    """The settings of recipes that `add_run_options` added, KEY=VALUE each."""
    return args.set if args.exif is None else [*args.set, f"exif={args.exif}"]


def execution_from_args(args: argparse.Namespace) -> Execution:
    """The choices that `add_run_options` added; leaves cores to the processes that decode.

    Raises UsageError for minutes between checkpoints that cannot be.
    """
    if not args.save_minutes >= 0:
        raise UsageError(f"--save-minutes: expected a number of 0 or more, got {args.save_minutes}")
    torch.set_num_threads(max(1, cores_here() - loader_workers()))
    return Execution(args.device, args.precision, args.parts, args.channels_last, args.compile, args.save_minutes)
