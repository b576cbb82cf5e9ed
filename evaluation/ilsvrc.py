"""The evaluation command: engines over a labelled data set, by the papers' protocols.

    python -m evaluation.ilsvrc --engine ckpt.pt --data DIR --protocol multicrop+dense

Writes OUT/scores/*.parquet, OUT/report.json and OUT/report.md, and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import get_args

from infer.command import Parser, run, scales_argument
from infer.dataset import Dataset, DatasetError, open_dataset
from infer.engine import EngineError, Provider
from infer.pipeline import behind
from infer.views import PROTOCOLS, PlanError

from . import scores as tables
from .class_order import explain_order
from .fuse import FUSED, fuse_files
from .images import RunError
from .members import Members, open_members
from .mistakes import write_mistakes
from .paper import Entry
from .report import result_from_scores, unreadable_images, write_report
from .runner import POOLING_OUTPUT, Shard, describe, shard_images
from .scores import ScoresError
from .shards import Task, UnfinishedRun
from .submission import Plan, SubmissionError, plan_of, read_submission
from .watch import Watch
from .workers import Job, run_here, run_on_devices


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    args = parser.parse_args(argv)
    singly = {"--engine": args.engine, "--protocol": args.protocol, "--scales": args.scales, "--pooling": args.pooling}
    given = [option for option, value in singly.items() if value]
    if args.submission is not None and given:
        parser.error(f"{given[0]} is said by the --submission for each member: leave it out")
    if args.submission is None and not (args.engine and args.protocol):
        parser.error("expected --engine ENGINE --protocol P, or --submission FILE.yaml")
    try:
        return _evaluate(args, shlex.join(["python", "-m", "evaluation.ilsvrc", *argv]))
    except (PlanError, SubmissionError) as error:
        parser.error(str(error))
    except (DatasetError, EngineError, RunError, ScoresError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _plan(args: argparse.Namespace) -> Plan:
    """From --submission, or from --engine, --protocol, --scales. Raises SubmissionError."""
    if args.submission is None:
        scales = tuple(args.scales) if args.scales else None
        asked = [(path, [(name, scales) for name in args.protocol]) for path in args.engine]
        fusions = [(FUSED, [(i, j) for i in range(len(asked))]) for j in range(len(args.protocol))]
        return Plan(asked, fusions if len(asked) > 1 else [], args.pooling or "scores")
    return plan_of(read_submission(args.submission))


def _evaluate(args: argparse.Namespace, command: str) -> int:
    """Opens, runs, reports. Raises PlanError, SubmissionError, DatasetError, EngineError, RunError, ScoresError."""
    started = time.monotonic()
    plan = _plan(args)
    dataset = open_dataset(args.data, "val", limit=args.limit)
    with contextlib.ExitStack() as stack:
        members = _open(args, plan, stack)
        described = describe(members.engines, members.protocols, plan.pooling, our_commit())
        size = shard_images(members.protocols)
        task = Task(described, dataset.id, len(dataset.items), size, args.mistakes)
        unfinished = UnfinishedRun(args.out, task, resume=args.resume)
        progress, before = unfinished.progress, unfinished.progress.wall_seconds
        job = Job(plan, replace(dataset, items=()), described, args.provider, args.strict, args.workers, args.mistakes)
        watch = stack.enter_context(Watch(len(dataset.items), progress.images, log_json=args.log_json))
        shards = _shards(args, job, members, dataset, unfinished.pending, watch)

        def commit(shard: Shard) -> None:
            unfinished.add(shard, before + time.monotonic() - started)
            watch.error(progress.top1_error_percent)

        try:
            behind(shards, commit)
            table = _report(args.out, members, dataset, unfinished, plan, command)
        except KeyboardInterrupt:
            print(
                f"interrupted: {progress.images} of {len(dataset.items)} images are kept in {args.out}, go on by "
                "--resume",
                file=sys.stderr,
            )
            return 130
        unfinished.discard()
        watch.say("end", images=progress.images, of=len(dataset.items), report=str(args.out / "report.json"))
    if not args.log_json:
        print(table)
        seconds = progress.wall_seconds
        print(f"{len(dataset.items)} images of {args.data} in {seconds:.1f} s; scores and report in {args.out}")
    return 0


def _open(args: argparse.Namespace, plan: Plan, stack: contextlib.ExitStack) -> Members:
    """The engines, to run here, or closed again where processes of --device open them anew."""
    devices = args.device or [0]
    if len(devices) == 1:
        return open_members(plan, args.provider, stack, device=devices[0])
    with contextlib.ExitStack() as soon:
        return open_members(plan, args.provider, soon, device=devices[0])


def _shards(
    args: argparse.Namespace, job: Job, members: Members, dataset: Dataset, starts: Sequence[int], watch: Watch
) -> Iterator[Shard]:
    """By this process, by one for each --device, or by a Ray cluster."""
    if len(args.device or [0]) == 1:
        yield from run_here(job, members, dataset, starts=starts, on_images=watch.images)
        return
    for shard in run_on_devices(job, members, dataset, starts, args.device):
        watch.images(shard.images)
        yield shard


def _report(out: Path, members: Members, dataset: Dataset, run: UnfinishedRun, plan: Plan, command: str) -> str:
    """Writes the score tables and the report of a run whose shards are all there; returns the table to print."""
    written, ilsvrc, progress = run.finish(), dataset.is_ilsvrc2012_val, run.progress
    entries = [
        [Entry(engine.spec, protocol.name, protocol.scales) for protocol in own]
        for engine, own in zip(members.engines, members.protocols, strict=True)
    ]
    results = []
    for own, paths, seconds, of_tables in zip(entries, written, progress.engine_seconds, progress.tables, strict=True):
        pixels = sum(table.view_pixels for table in of_tables)
        results += [
            result_from_scores(
                tables.parts(path),
                [one],
                is_ilsvrc2012_val=ilsvrc,
                engine_seconds=round(seconds, 3),
                wall_seconds=round(progress.wall_seconds, 3),
                protocol_engine_seconds=round(seconds * table.view_pixels / pixels, 3) if pixels else None,
            )
            for one, path, table in zip(own, paths, of_tables, strict=True)
        ]
    for name, places in plan.fusions:
        fused = fuse_files([written[i][j] for i, j in places], name)
        results.append(result_from_scores(fused, [entries[i][j] for i, j in places], is_ilsvrc2012_val=ilsvrc))
    every = [path for paths in written for path in paths]
    orders = (explain_order(tables.parts(path), dataset.class_names, dataset.devkit_order) for path in every)
    remarks = list(dict.fromkeys(remark for remark in orders if remark))
    for remark in remarks:
        print(remark, file=sys.stderr)
    mistakes = [table.mistakes for own in progress.tables for table in own]
    metadata = [metadata for own in run.task.described for metadata in own]
    write_mistakes(out, dataset, list(zip(metadata, mistakes, strict=True)))
    return write_report(
        out,
        results,
        unreadable_images(tables.parts(path) for path in every),
        remarks,
        dataset_id=run.dataset_id,
        is_ilsvrc2012_val=ilsvrc,
        command=command,
        commit=metadata[0]["commit"],
    )


def our_commit() -> str:
    """The commit of this checkout, or the installed version."""
    here = Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        try:
            return f"verydeep {metadata.version('verydeep')}"
        except metadata.PackageNotFoundError:
            return "unknown"


def _parser() -> Parser:
    parser = Parser(prog="python -m evaluation.ilsvrc", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--engine",
        action="append",
        type=Path,
        help="a model: .pt, .onnx or .engine; repeat to evaluate and fuse several",
    )
    parser.add_argument(
        "--data", required=True, type=Path, help="ILSVRC-2012 or class folders, or a tar of them (docs/data.md)"
    )
    parser.add_argument(
        "--protocol", type=_protocols, metavar="P[,P...]", help=f"of {', '.join(PROTOCOLS)} (docs/evaluation.md)"
    )
    parser.add_argument(
        "--scales", type=scales_argument, metavar="Q[,Q...]", help="shorter sides in px (default: each model's own)"
    )
    parser.add_argument(
        "--pooling",
        choices=list(POOLING_OUTPUT),
        help="what is averaged over the positions of a dense view: class scores, before the softmax, as in the paper, "
        "or posteriors, after it (default: scores)",
    )
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FILE.yaml",
        help="engines to fuse, each with its protocol and scales (examples/submissions), instead of --engine, "
        "--protocol, --scales and --pooling",
    )
    parser.add_argument(
        "--provider", choices=get_args(Provider), default="cpu", help="of ONNX Runtime (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for scores/ and the report (default: %(default)s)"
    )
    parser.add_argument(
        "--device",
        type=_devices,
        metavar="N[,N...]",
        help="GPUs of this machine, by ordinal; several run one process each, which changes no result (default: 0). "
        "With --provider cpu a number only stands for a process",
    )
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the unfinished run in OUT, if there is one and it is this one"
    )
    parser.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="threads that decode; changes no result (default: 1)"
    )
    parser.add_argument(
        "--mistakes",
        type=_whole,
        default=8,
        metavar="N",
        help="of each table, the most confident mistakes to show in the report, with thumbnails (default: 8)",
    )
    parser.add_argument(
        "--log-json", action="store_true", help="events as JSON lines on stdout (docs/report.md), in place of the table"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="stop at the first image that cannot be read, instead of counting it wrong",
    )
    return parser


def _protocols(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in PROTOCOLS]
    if unknown or len(set(names)) != len(names):
        what = f"unknown protocol {unknown[0]!r}" if unknown else "a protocol is named twice"
        raise argparse.ArgumentTypeError(f"{what}: expected different ones of {', '.join(PROTOCOLS)}")
    return names


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return int(text)


def _whole(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"expected a whole number, got {text!r}")
    return int(text)


def _devices(text: str) -> list[int]:
    names = text.split(",")
    if not all(name.isdigit() for name in names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"expected different numbers of GPUs like 0,1, got {text!r}")
    return [int(name) for name in names]


if __name__ == "__main__":
    run(main)
