"""Options and failures that both training commands share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import get_args

import torch

from infer.data.dataset import DatasetError
from infer.pixels.decode import ImageError
from infer.spec import SpecError

from ..checkpoint import CheckpointError
from ..data.batches import cores_here, loader_workers
from ..data.colours import StatisticsError
from ..processes import ExecutionError
from .execution import Execution, Precision
from .train import SAVE_MINUTES, Stopped, TrainingError

PROBLEMS = (
    DatasetError,
    ImageError,
    CheckpointError,
    ExecutionError,
    StatisticsError,
    TrainingError,
    SpecError,
    OSError,
)
"""What a run can fail of; each says so in one line."""


def outcome(work: Callable[[], int]) -> int:
    """The status of `work`, which may fail in the ways of a run: each is one line, of one process."""
    rank, alone = int(os.environ.get("RANK", "0")), "WORLD_SIZE" not in os.environ
    try:
        return work()
    except Stopped as stop:
        if rank == 0:
            print(stop, file=sys.stderr)
        return 128 + stop.signal
    except PROBLEMS as error:
        print(str(error).strip().splitlines()[-1], file=sys.stderr)
        return 1
    except RuntimeError as error:
        if alone:
            raise
        print(f"process {rank}: lost the others ({str(error).splitlines()[0][:200]})", file=sys.stderr)
        return 1


def add_execution_options(parser: argparse.ArgumentParser) -> None:
    """How the steps are computed, and how often they are saved."""
    default = Execution()
    parser.add_argument(
        "--save-minutes",
        type=float,
        default=SAVE_MINUTES,
        metavar="N",
        help="write the checkpoint as often, beside after every epoch (default: %(default)g)",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default=default.device)
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default=default.precision,
        help="bf16, fp16: autocast, for GPUs that are faster so; fp64: for comparisons (default: %(default)s)",
    )
    parser.add_argument(
        "--parts", type=int, default=default.parts, metavar="N", help="compute a process's batch in N pieces"
    )
    parser.add_argument(
        "--channels-last", action=argparse.BooleanOptionalAction, default=default.channels_last, help="memory format"
    )
    parser.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start, faster steps")


def execution_of(args: argparse.Namespace) -> Execution:
    """From what `add_execution_options` added; leaves cores to the processes that decode."""
    torch.set_num_threads(max(1, cores_here() - loader_workers()))
    return Execution(args.device, args.precision, args.parts, args.channels_last, args.compile)
