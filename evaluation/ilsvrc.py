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
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import get_args

from infer.command import Parser, run, scales_argument
from infer.dataset import Dataset, DatasetError, open_dataset
from infer.engine import Engine, EngineError, Provider, open_engine
from infer.pipeline import behind
from infer.views import PROTOCOLS, PlanError, check_scales

from . import scores as tables
from .class_order import explain_order
from .fuse import FUSED, fuse_files
from .images import RunError
from .paper import Entry
from .report import result_from_scores, unreadable_images, write_report
from .runner import POOLING_OUTPUT, Protocol, describe, resolve, score
from .scores import ScoresError
from .shards import UnfinishedRun
from .submission import Plan, SubmissionError, plan_of, read_submission


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
        engines, protocols = _open(plan, args.provider, stack)
        described = describe(engines, protocols, dataset, plan.pooling, our_commit())
        unfinished = UnfinishedRun(args.out, described, len(dataset.items), resume=args.resume)
        first, before = unfinished.progress.images, unfinished.progress.wall_seconds
        shards = score(engines, protocols, dataset, described, first=first, strict=args.strict, workers=args.workers)
        try:
            behind(shards, lambda shard: unfinished.add(shard, before + time.monotonic() - started))
            table = _report(args.out, engines, protocols, dataset, unfinished, plan, command)
        except KeyboardInterrupt:
            done = unfinished.progress.images
            print(f"interrupted: the first {done} images are kept in {args.out}, go on by --resume", file=sys.stderr)
            return 130
        unfinished.discard()
    print(table)
    seconds = unfinished.progress.wall_seconds
    print(f"{len(dataset.items)} images of {args.data} in {seconds:.1f} s; scores and report in {args.out}")
    return 0


def _open(
    plan: Plan, provider: Provider, stack: contextlib.ExitStack
) -> tuple[list[Engine], list[tuple[Protocol, ...]]]:
    """The engines, which `stack` closes, and the protocols of each. Raises EngineError, PlanError or RunError."""
    engines: list[Engine] = []
    protocols: list[tuple[Protocol, ...]] = []
    for path, asked in plan.asked:
        largest = max((q for _, scales in asked for q in scales or ()), default=0)
        engine = open_any(path, provider=provider, largest_short_px=largest)
        stack.callback(engine.close)
        own = tuple(protocol for name, scales in asked for protocol in resolve([name], engine.spec, scales))
        for protocol in own:
            check_scales(engine.spec, protocol.scales)
        if len(set(own)) < len(own):
            raise RunError(f"{path} takes part twice by the same protocol and scales, expected each once")
        engines.append(engine)
        protocols.append(own)
    _check_together(engines, [path for path, _ in plan.asked])
    return engines, protocols


def _report(
    out: Path,
    engines: Sequence[Engine],
    protocols: Sequence[Sequence[Protocol]],
    dataset: Dataset,
    run: UnfinishedRun,
    plan: Plan,
    command: str,
) -> str:
    """Writes the score tables and the report of a run whose shards are all there; returns the table to print."""
    written, ilsvrc = run.finish(), dataset.is_ilsvrc2012_val
    entries = [
        [Entry(engine.spec, protocol.name, protocol.scales) for protocol in own]
        for engine, own in zip(engines, protocols, strict=True)
    ]
    results = [
        result_from_scores(
            tables.parts(path),
            [one],
            is_ilsvrc2012_val=ilsvrc,
            engine_seconds=round(seconds, 3),
            wall_seconds=round(run.progress.wall_seconds, 3),
        )
        for own, paths, seconds in zip(entries, written, run.progress.engine_seconds, strict=True)
        for one, path in zip(own, paths, strict=True)
    ]
    for name, places in plan.fusions:
        fused = fuse_files([written[i][j] for i, j in places], name)
        results.append(result_from_scores(fused, [entries[i][j] for i, j in places], is_ilsvrc2012_val=ilsvrc))
    every = [path for paths in written for path in paths]
    orders = (explain_order(tables.parts(path), dataset.class_names, dataset.devkit_order) for path in every)
    remarks = list(dict.fromkeys(remark for remark in orders if remark))
    for remark in remarks:
        print(remark, file=sys.stderr)
    metadata = run.described[0][0]
    return write_report(
        out,
        results,
        unreadable_images(tables.parts(path) for path in every),
        remarks,
        dataset_id=metadata["dataset_id"],
        is_ilsvrc2012_val=ilsvrc,
        command=command,
        commit=metadata["commit"],
    )


def open_any(path: Path, *, provider: Provider = "cpu", largest_short_px: int = 0) -> Engine:
    """An engine for a .pt, .onnx or .engine file. Raises EngineError."""
    if path.suffix == ".pt":
        from trainer.checkpoint import CheckpointError
        from trainer.torch_engine import TorchEngine

        try:
            return TorchEngine.open(path, largest_short_px=largest_short_px)
        except CheckpointError as error:
            raise EngineError(str(error)) from None
    return open_engine(path, provider=provider, largest_short_px=largest_short_px)


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


def _check_together(engines: Sequence[Engine], paths: Sequence[Path]) -> None:
    """Raises RunError where two engines would write the same files, or could not be fused in the end."""
    seen: dict[tuple[str, str], Path] = {}
    for engine, path in zip(engines, paths, strict=True):
        other = seen.setdefault((engine.spec.name, engine.runtime), path)
        if other is not path:
            raise RunError(
                f"{other} and {path} are both {engine.spec.name} on {engine.runtime}: their scores would have the same "
                "file name; train or import them under different names"
            )
        if engine.spec.classes != engines[0].spec.classes:
            raise RunError(
                f"{paths[0]} and {path} have different classes: they cannot be fused, so evaluate them one by one"
            )


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
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N images")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the unfinished run in OUT, if there is one and it is this one"
    )
    parser.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="threads that decode; changes no result (default: 1)"
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


if __name__ == "__main__":
    run(main)
